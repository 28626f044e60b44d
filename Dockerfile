# Stockhold's one image: every process of ours runs from it, and so does every command of `stockhold`. See compose.yaml.

FROM python:3.11.17-slim-trixie@sha256:45037981b62b34b44602584fccbc4d884d5f7dc92c7ee86bb38a698a79fe1e51 AS base
ENV PATH=/opt/stockhold/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/stockhold/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

FROM base AS build
COPY requirements-runtime.lock /build/
# Wheels alone: whatever had to be built would bring its tools from anywhere, unseen by the lock.
RUN python -m venv --without-pip /opt/stockhold/venv \
 && /usr/local/bin/python -m pip --python /opt/stockhold/venv/bin/python install --no-cache-dir --disable-pip-version-check \
      --only-binary :all: --require-hashes --requirement /build/requirements-runtime.lock
COPY domain /opt/stockhold/app/domain
COPY infra /opt/stockhold/app/infra
COPY write_side /opt/stockhold/app/write_side
COPY projections /opt/stockhold/app/projections
COPY read_api /opt/stockhold/app/read_api
# Of these two the command line has a command each.
COPY benchmarks /opt/stockhold/app/benchmarks
COPY demo /opt/stockhold/app/demo
# Compiled once, here: a container has nowhere to write.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/stockhold/app

FROM base
# Nothing is installed any more. The base comes without its compiled library, and every health check would compile its part.
RUN /usr/local/bin/python -m pip uninstall --yes --quiet pip setuptools wheel \
 && /usr/local/bin/python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3* \
 && groupadd --gid 10001 stockhold \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin stockhold
COPY --from=build /opt/stockhold /opt/stockhold
WORKDIR /opt/stockhold
USER 10001:10001
# The command API, the read API, and the monitor of every other process.
EXPOSE 8000 8001 9000
# -P: nothing in the folder where it starts is taken for ours.
ENTRYPOINT ["python", "-P", "-m", "infra.cli.main"]
CMD ["--help"]
