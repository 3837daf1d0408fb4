# Everything that a node needs, for one machine, Ray on Kubernetes, or a container on Slurm:
#   docker build -t rto-rlhf:0.1.0-cpu .
#   docker build -t rto-rlhf:0.1.0-cuda --build-arg HARDWARE=cuda .
ARG HARDWARE=cpu
# With the compiler of the CUDA that the pinned torch is built for: DeepSpeed builds its operators.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04

FROM ubuntu:24.04 AS cpu
FROM ${CUDA_IMAGE} AS cuda

FROM ${HARDWARE}
ARG HARDWARE
# KubeRay asks a node for its health with wget.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
      build-essential ca-certificates git make python3.12-dev python3.12-venv wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/rto
# What the libraries follow from, so that a change of the code does not install them again.
COPY Makefile MANIFEST.in README.md LICENSE pyproject.toml setup.py ./
COPY requirements requirements
COPY rto/__init__.py rto/__init__.py
RUN mkdir rpo_ext && touch rpo_ext/__init__.py \
    && make PYTHON=python3.12 $(if [ "$HARDWARE" = cuda ]; then echo CUDA=1; fi) \
      ".venv/.installed-$HARDWARE"

COPY rto rto
COPY rpo_ext rpo_ext
COPY examples examples
COPY ray_jobs ray_jobs
# KubeRay starts Ray from a login shell.
RUN echo 'export PATH=/opt/rto/.venv/bin:$PATH' > /etc/profile.d/rto.sh

ENV PATH=/opt/rto/.venv/bin:$PATH
USER ubuntu
WORKDIR /home/ubuntu
CMD ["rto", "--help"]
