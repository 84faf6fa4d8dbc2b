#!/usr/bin/env bash
# An environment in which the loaders of others run: bench/peers.sh FOLDER
#
# It lies over .venv, whose packages it sees, so it takes 1.3 GB and a minute. What a
# peer wants in another version is installed a second time, here alone.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?usage: bench/peers.sh FOLDER}

# SPDL loads FFmpeg's libraries; FFCV has no wheel, and is built with OpenCV's and
# libjpeg-turbo's headers.
packages=(ffmpeg pkg-config g++ libopencv-dev libturbojpeg0-dev)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if ((${#missing[@]})); then
    install="apt-get install -y --no-install-recommends ${missing[*]}"
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
    else
        echo "error: system packages are missing; as root: $install" >&2
        exit 1
    fi
fi

site() { "$1/bin/python" -c 'import site; print(site.getsitepackages()[0])'; }
.venv/bin/python -m venv "$folder"
{ site .venv && pwd; } >"$(site "$folder")/fastretina.pth"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c bench/peers.txt torchcodec spdl litdata mosaicml-streaming ffcv
