# An image with everything that training and inference need.
#
#   docker build -t aicl .
#   docker run --rm --gpus all --shm-size 1g -v /data/THUMOS14:/data:ro -v "$PWD/outputs:/aicl/outputs" \
#       aicl bash scripts/train.sh /data --exp_name first
#
# torch comes with its CUDA libraries; the host needs NVIDIA's driver and container toolkit. For the CPU build:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t aicl .
FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /aicl
COPY requirements.txt requirements-lock.txt ./
RUN python -m pip install --no-cache-dir -r requirements.txt -c requirements-lock.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
COPY . .
CMD ["bash", "scripts/train.sh"]
