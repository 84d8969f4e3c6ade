#!/usr/bin/env bash
# Groups of paraphrases out of the Chinese message catalogues of Debian's packages: those that hold
# zh_CN and zh_TW ones and are smaller than 8 MB. Debian 12 had 1,195 of them on 29 November 2026,
# 101,569 groups. Needs apt-file with its lists fetched, and opencc-python-reimplemented.
#
#     bash trained/catalogues.sh RUNS/catalogues
set -euo pipefail
mkdir -p "$1/mo" && cd "$1"
for locale in zh_CN zh_TW; do
    apt-file search -l -x "$locale/LC_MESSAGES/.*\.mo$" | sort >"$locale.txt"
done
comm -12 zh_CN.txt zh_TW.txt | xargs apt-cache show --no-all-versions |
    awk '/^Package:/ { name = $2 } /^Size:/ && $2 < 8e6 { print name }' | sort -u >packages.txt
while read -r package; do
    apt-get download -q "$package"
    mkdir -p "mo/$package"
    dpkg-deb --fsys-tarfile "$package"_*.deb |
        tar -x -C "mo/$package" --wildcards '*/zh_*/LC_MESSAGES/*.mo'
    rm "$package"_*.deb
done <packages.txt
zoo mine-pairs catalogues mo -o catalogues.jsonl
