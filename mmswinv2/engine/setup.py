"""Repairs MMEngine and hosts in the process that imports this module.

``import mmswinv2`` does not import it; ``custom_imports`` of our configs does, also from a dumped config and in each
process of a launcher. A repair is a function that documents its defect; calling it again changes nothing.
"""
from . import loading, repairs

REPAIRS = (
    repairs.silence_torchvision, repairs.leave_out_multimodal_models, repairs.leave_out_vindlu,
    repairs.stand_in_for_drn, repairs.count_every_annotation, repairs.draw_images_of_any_layout,
    loading.read_local_files_safely, repairs.count_fused_attention, repairs.start_processes_on_cpus,
    repairs.find_unused_parameters_everywhere)

for repair in REPAIRS:
    repair()
