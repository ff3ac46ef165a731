"""Repairs MMEngine and hosts in the process that imports this module.

``import mmswinv2`` does not import it; ``custom_imports`` of our configs does, also from a dumped config and in each
process of a launcher. A repair is a function that documents its defect; calling it again changes nothing.
"""
from .checkpoint import read_local_files_safely
from .repairs import (
    count_every_annotation,
    count_fused_attention,
    draw_images_of_any_layout,
    find_unused_parameters_everywhere,
    leave_out_multimodal_models,
    leave_out_vindlu,
    silence_torchvision,
    stand_in_for_drn,
    start_processes_on_cpus,
)

silence_torchvision()
leave_out_multimodal_models()
leave_out_vindlu()
stand_in_for_drn()
count_every_annotation()
draw_images_of_any_layout()
read_local_files_safely()
count_fused_attention()
start_processes_on_cpus()
find_unused_parameters_everywhere()
