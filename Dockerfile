# One image for every service: `docker build --tag ewallet .`, then `up`, `serve SERVICE` or any other command.

FROM python:3.11-slim AS build
WORKDIR /build
# Compiled where it is installed, because the image's files cannot be written later.
RUN python -m venv /opt/ewallet
COPY requirements/run.txt requirements/run.txt
RUN /opt/ewallet/bin/pip install --no-cache-dir --require-hashes --requirement requirements/run.txt
COPY pyproject.toml LICENSE NOTICE ./
COPY src src
RUN /opt/ewallet/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
# Its own user, and the only two folders that it may write: data, and what HAProxy is to read.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ewallet \
    && install --directory --owner ewallet --group ewallet /data /haproxy
COPY --from=build /opt/ewallet /opt/ewallet
ENV PATH=/opt/ewallet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    EWALLET_DATA=/data \
    EWALLET_HOST=0.0.0.0 \
    EWALLET_LOG_FORMAT=json
USER 10001
EXPOSE 8080
# Whether the process answers at all. Whether it can work is for the proxy to ask: /health/ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health/live', timeout=4)"]
ENTRYPOINT ["ewallet"]
CMD ["up"]
