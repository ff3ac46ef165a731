"""A checkpoint as a zip tool packs it."""
import zipfile


def deflated(source, target, names=None):
    """Writes the zip file ``source`` again with its records deflated; ``names``: those alone, by their last part."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        for info in old.infolist():
            deflate = names is None or info.filename.partition('/')[2] in names
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info),
                         compress_type=zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)
    return target
