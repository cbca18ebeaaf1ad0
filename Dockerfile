# The scoring service in a container, from the wheel:
#   python -m build --wheel && docker build -t aead .
#   docker run -p 8000:8000 -v "$PWD/runs/first:/run/first:ro" aead --run /run/first
# It writes to /tmp alone, so `--read-only --tmpfs /tmp --cap-drop ALL` may be added. It listens on port 8000; map that to another.
# An index of PyTorch without CUDA makes the image several times smaller: --build-arg PIP_EXTRA_INDEX_URL=…
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
COPY dist/*.whl /dist/
RUN set -- /dist/*.whl; \
    if [ $# -ne 1 ]; then echo "dist has $# wheels; keep the one to install"; exit 1; fi; \
    python -m venv /opt/aead && /opt/aead/bin/pip install --no-cache-dir "$1[export,serve]"

FROM python:3.12-slim
COPY --from=build /opt/aead /opt/aead
RUN useradd --uid 10001 --no-create-home --home-dir /tmp aead
ENV PATH=/opt/aead/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1
USER 10001
EXPOSE 8000
# a model may take a minute to load, and longer on a busy machine
HEALTHCHECK --interval=30s --timeout=6s --start-period=3m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["aead", "serve", "--host", "0.0.0.0"]
