# An image with the classic stack for NVIDIA GPUs (STACK=onedl: the maintained forks), from the pins in requirements/:
#   docker build -t mmswinv2 . && docker run --gpus all -v /path/to/coco:/mmswinv2/data/coco -it mmswinv2
# Neither the build nor the image has been run: there was no Docker and no GPU where this was written.
ARG PYTHON=3.11
# nvcc's version has to be that of the CUDA that torch is built for; torch's wheel brings the libraries itself.
ARG CUDA=13.0

FROM nvidia/cuda:${CUDA}.0-devel-ubuntu22.04 AS cuda

FROM python:${PYTHON}-bookworm
ARG STACK=classic
# The torch of requirements/build.txt: a label only.
ARG TORCH=2.13.0
# Compute capabilities to compile mmcv for: no GPU is seen while an image is built. Fewer of them build faster.
ARG ARCH_LIST="8.0;8.6;8.9;9.0;10.0;12.0+PTX"
LABEL torch=${TORCH}

RUN apt-get update && apt-get install -y --no-install-recommends build-essential git libgl1 libglib2.0-0 make \
    && rm -rf /var/lib/apt/lists/*
ARG CUDA
COPY --from=cuda /usr/local/cuda-${CUDA} /usr/local/cuda
ENV CUDA_HOME=/usr/local/cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /mmswinv2
COPY . .
RUN TORCH_CUDA_ARCH_LIST="${ARCH_LIST}" python tools/setup_env.py --stack ${STACK} --cuda \
    && if [ ${STACK} = onedl ]; then ln -s .venv-onedl .venv; fi
ENV PATH=/mmswinv2/.venv/bin:/usr/local/cuda/bin:$PATH
