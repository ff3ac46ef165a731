"""What a run needs repaired in MMEngine, done for the process where this module is imported.

``import mmswinv2`` does not import it; ``custom_imports`` of our configs does, also from a dumped config and in each
process of a launcher. A repair is a function that says which defect it is for; calling it again changes nothing.
"""
from .checkpoint import read_local_files_safely
from .flops import count_attention

read_local_files_safely()
count_attention()
