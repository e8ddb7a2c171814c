# The operator, the migration program and the command line in one image. It runs as a user without rights, and with a
# read-only root file system.
#   docker build -t registry.example.com/presence-operator:0.1.0 .

FROM docker.io/library/python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY cli cli
COPY operator operator
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --no-compile --prefix /install \
        --constraint constraints.txt '.[operator]'

FROM docker.io/library/python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="presence-operator" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /install /usr/local
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/local/bin/presence-operator"]
