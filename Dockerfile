# The REST service (docs/how-to/service.md):
#
#   docker build -t octamark .
#   docker run --read-only --memory 1g -p 127.0.0.1:8000:8000 -v "$PWD/token:/run/secrets/token:ro" octamark

FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels --constraint constraints.txt ".[serve]"

FROM python:3.12-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-compile --no-index --find-links /wheels "octamark[serve]" \
    && python -m compileall -q /usr/local/lib/python3.12/site-packages \
    && useradd --system --no-create-home --shell /usr/sbin/nologin octamark
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER octamark
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
ENTRYPOINT ["octamark", "serve"]
CMD ["--host", "0.0.0.0", "--token-file", "/run/secrets/token"]
