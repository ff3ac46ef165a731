"""What is in a folder."""
import hashlib


def digest(folder):
    """The checksum of each file, by its path in the folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob('*')) if p.is_file()}
