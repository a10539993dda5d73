# Two stages: what builds stays behind. The lock's hashes decide what is installed.
ARG PYTHON=3.13-slim

FROM python:${PYTHON} AS build
WORKDIR /src
RUN python -m venv /opt/rowferry
COPY requirements.lock .
RUN /opt/rowferry/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY service service
COPY sinks sinks
COPY workers workers
RUN /opt/rowferry/bin/pip install --no-cache-dir --no-deps . \
 && /opt/rowferry/bin/pip uninstall --yes pip

FROM python:${PYTHON}
# Its own user, with an entry in passwd; the data folder is its only place to write.
RUN useradd --system --uid 10001 --home-dir /var/lib/rowferry --shell /usr/sbin/nologin rowferry \
 && install --directory --owner=rowferry --group=rowferry --mode=0750 /var/lib/rowferry
COPY --from=build /opt/rowferry /opt/rowferry
ENV PATH=/opt/rowferry/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ROWFERRY_DATA_DIR=/var/lib/rowferry
USER 10001
WORKDIR /var/lib/rowferry
VOLUME /var/lib/rowferry
EXPOSE 8080
STOPSIGNAL SIGTERM
# /healthz says that the process serves; /readyz would have a restart answer an outage of the database.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["rowferry"]
CMD ["serve"]
