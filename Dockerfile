# The scoring service in a container, from the wheel:
#   python -m build --wheel && docker build -t aead .
#   docker run -p 8000:8000 -v "$PWD/runs/first:/run/first:ro" aead --run /run/first
FROM python:3.12-slim
COPY dist/*.whl /tmp/
RUN pip install --no-cache-dir "$(ls /tmp/*.whl)[export,serve]" && rm /tmp/*.whl
RUN useradd --create-home aead
USER aead
EXPOSE 8000
HEALTHCHECK CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["aead", "serve", "--host", "0.0.0.0"]
