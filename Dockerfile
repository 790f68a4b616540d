# syntax=docker/dockerfile:1
#
#   docker build -t ganymede .                              runs on the CPU
#   docker build -t ganymede --build-arg ACCELERATOR=cuda . runs on an NVIDIA GPU (docker run --gpus all)
#   docker run -p 3000:3000 -v ./my-models:/models:ro ganymede

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG ACCELERATOR=cpu
ENV VENV=/opt/ganymede \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Dependencies first, so that a change of code does not install them again.
COPY requirements.txt constraints.txt constraints-gpu.txt ./
RUN python3 -m venv "$VENV" && "$VENV/bin/pip" install --no-cache-dir -r requirements.txt
RUN if [ "$ACCELERATOR" = cuda ]; then "$VENV/bin/pip" install --no-cache-dir -r constraints-gpu.txt; fi
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training
RUN PIP_CONSTRAINT=constraints.txt "$VENV/bin/pip" install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ganymede
COPY --from=build /opt/ganymede /opt/ganymede
# The included models; mount a volume here to replace them.
COPY models /models
# BentoML's state; it need not outlive the container.
ENV PATH=/opt/ganymede/bin:$PATH \
    GANYMEDE_MODELS=/models \
    BENTOML_HOME=/tmp/bentoml \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /tmp
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
ENTRYPOINT ["ganymede"]
# Other machines can reach this address, so GANYMEDE_KEYS or GANYMEDE_INSECURE=1 is required.
CMD ["serve", "--host", "0.0.0.0", "--port", "3000"]
