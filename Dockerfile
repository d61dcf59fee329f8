# Runs the two commands of the README:
#   docker build -t apq_jax .
#   docker run --rm -v "$PWD/runs:/apq_jax/runs" apq_jax      the main job; its report is in runs/
#   docker run --rm apq_jax scripts/test                      the tests
FROM python:3.13-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /apq_jax
COPY . .
# Both commands find their environment ready, so that a container needs no network.
RUN scripts/setup examples,onnx && scripts/setup examples,dev
CMD ["scripts/search"]
