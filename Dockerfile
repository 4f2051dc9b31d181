# The gateway, the reference node and the tools, in one image: `docker build -t veriroute .`
#
# The first stage takes every package of requirements.lock by its hash, then works from these files alone, without an
# index; what only development needs is among them and stays behind. Nothing is compiled: wheels only.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock ./
RUN python -m pip download --quiet --require-hashes --only-binary :all: --requirement requirements.lock --dest /wheels
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY adapters adapters
COPY policies policies
COPY tui tui
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
RUN python -m pip install --quiet hatchling \
 && python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/veriroute \
 && python -m pip --python /opt/veriroute/bin/python install --quiet "veriroute[demo,fast,opengradient]"

FROM python:3.11-slim
RUN groupadd --gid 10001 veriroute \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin veriroute \
 && install --directory --owner veriroute --group veriroute --mode 0700 /data /identities
COPY --from=build /opt/veriroute /opt/veriroute
ENV PATH=/opt/veriroute/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Settings (veriroute.toml), database and keys: mount a volume here.
WORKDIR /data
EXPOSE 8080
ENTRYPOINT ["veriroute"]
CMD ["serve"]
