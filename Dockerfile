# The images of operator and proxy, what `make image PROFILE=release` makes without Docker:
#
#   docker build --target operator -t localhost/fairlead-operator:0.1.0 .
#   docker build --target proxy    -t localhost/fairlead-proxy:0.1.0 .
#
# Static programs on nothing: no shell, no package manager, no root. A test compares this file with dev/image.

FROM rust:1.95.0-bookworm AS build
WORKDIR /source
COPY . .
# With a target named, build scripts and macros are built for themselves: those cannot be static.
RUN target="$(rustc --version --verbose | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile release --target "$target" --locked \
      -p fairlead-operator -p fairlead-proxy \
 && mkdir -p /programs \
 && cp "target/$target/release/fairlead-operator" "target/$target/release/fairlead-proxy" /programs/

# nft, which writes a pod's redirection, with the libraries that it loads and nothing else.
FROM debian:bookworm-slim AS nft
RUN apt-get update && apt-get install -y --no-install-recommends nftables \
 && mkdir -p /image/usr/bin \
 && cp /usr/sbin/nft /image/usr/bin/ \
 && ldd /usr/sbin/nft | grep -o '/[^ ]*' | while read -r library; do \
      mkdir -p "/image$(dirname "$library")" && cp -L "$library" "/image$library"; done

FROM scratch AS operator
LABEL org.opencontainers.image.title=fairlead-operator org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.licenses=Apache-2.0
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=build /programs/fairlead-operator /usr/bin/fairlead-operator
USER 65532:65532
ENTRYPOINT ["/usr/bin/fairlead-operator"]

FROM scratch AS proxy
LABEL org.opencontainers.image.title=fairlead-proxy org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.licenses=Apache-2.0
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=nft /image/ /
COPY --from=build /programs/fairlead-proxy /usr/bin/fairlead-proxy
USER 1337:1337
ENTRYPOINT ["/usr/bin/fairlead-proxy"]
