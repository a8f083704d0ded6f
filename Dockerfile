# A small image, CPU only, with the wheel index that pytorch.org names for CPU builds:
#   docker build -t lightning-reg --build-arg TORCH_INDEX=... .
# On a CUDA base (pip's own index serves CUDA builds of PyTorch):
#   docker build -t lightning-reg:cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
# Use:
#   docker run --rm -v "$PWD/runs:/data/runs" lightning-reg method=progressive data=phantom
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH_INDEX=
# hadolint ignore=DL3008
RUN if ! command -v pip >/dev/null; then \
        apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; \
    fi && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch ${TORCH_INDEX:+--index-url ${TORCH_INDEX}}
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
WORKDIR /data
ENTRYPOINT ["lightning-reg", "train"]
