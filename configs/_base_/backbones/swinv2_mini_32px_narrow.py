# The small SwinV2 for images of 32 px with 32 channels, of which clips have many.
_base_ = './swinv2_mini_32px.py'

channels = [32 * 2**stage for stage in range(3)]
swinv2 = dict(arch=dict(embed_dims=32))
