# syntax=docker/dockerfile:1
# The server (sige-serve), the batch (python -m sdxl.batch) and run.py. SDXL's weights are not inside: mount them.
#
#   docker build -t sige:cpu .
#   docker build -t sige:cuda --build-arg TARGET=cuda .
#   docker run -p 127.0.0.1:7860:7860 -e SIGE_API_KEY=... -v ./pretrained:/work/pretrained:ro -v state:/state sige:cpu

ARG TARGET=cpu
ARG PYTHON=python:3.11-slim-bookworm
ARG TOOLKIT=nvidia/cuda:13.0.1-devel-ubuntu22.04

# ---- what compiles: nvcc is files, so both targets are built, and run, on the same Python ----------------------------

FROM ${PYTHON} AS compiler
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

FROM ${TOOLKIT} AS toolkit

FROM compiler AS build-cpu
ENV SIGE_CUDA=0 PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM compiler AS build-cuda
COPY --from=toolkit /usr/local/cuda-13.0 /usr/local/cuda
ENV SIGE_CUDA=1 CUDA_HOME=/usr/local/cuda PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cu130

FROM build-${TARGET} AS build
ENV PATH=/opt/sige/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/sige
# Before the sources, so that a changed source downloads nothing again.
COPY constraints.txt ./
RUN pip install -c constraints.txt torch numpy pillow diffusers transformers accelerate safetensors omegaconf tqdm \
    setuptools ninja pybind11
COPY . .
RUN pip install -c constraints.txt --no-build-isolation ".[serve,batch,ray]"

# ---- what runs -------------------------------------------------------------------------------------------------------

FROM ${PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 sige \
    && mkdir -p /work/pretrained /state /jobs /out && chown sige:sige /work /state /out
COPY --from=build /opt/sige /opt/sige
COPY --chown=sige:sige run.py /work/run.py
ENV PATH=/opt/sige/bin:$PATH PYTHONUNBUFFERED=1
USER sige
WORKDIR /work
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["sige-serve", "--host", "0.0.0.0", "--state", "/state"]
