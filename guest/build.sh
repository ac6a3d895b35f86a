#!/usr/bin/env bash
# Builds the lab's guest into guest/build: vmlinuz, and an initramfs of busybox and one static C program. No root, no installing: the
# distribution's own kernel package is fetched with apt and unpacked. Does nothing when the result is newer than what it is made of.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
build=${SEGUE_GUEST_DIR:-$here/build}
readonly here build
readonly WANTED_MODULES=(virtio_pci virtio_net virtio_blk virtio_console) # in the order of loading; those that are built in are left out

# The smallest kernel the distribution has for virtual machines: Debian's cloud kernel, Ubuntu's virtual one.
kernel_package() {
  local meta image
  for meta in linux-image-cloud-amd64 linux-image-virtual linux-image-generic linux-image-amd64; do
    image=$(apt-cache depends --important "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
    [[ -n $image ]] && { echo "$image"; return; }
  done
  echo "build.sh: apt knows no kernel package; run 'apt-get update' first." >&2
  return 1
}

unpack() { # PACKAGE DIRECTORY
  (cd "$2" && apt-get download -qq -o APT::Sandbox::User=root "$1" >/dev/null)
  dpkg-deb -x "$2/$1"_*.deb "$2"
}

# Ubuntu keeps modules in a package of their own.
fetch_kernel() { # DIRECTORY → version
  local image
  image=$(kernel_package)
  unpack "$image" "$1"
  local version=${image#linux-image-}
  version=${version#unsigned-}
  [[ -d $1/lib/modules/$version/kernel || -d $1/usr/lib/modules/$version/kernel ]] || unpack "linux-modules-$version" "$1"
  [[ -d $1/lib/modules ]] || { mkdir -p "$1/lib" && ln -s ../usr/lib/modules "$1/lib/modules"; }
  depmod --basedir "$1" "$version"
  echo "$version"
}

copy_modules() { # DIRECTORY VERSION TARGET
  local name line file number=10
  for name in "${WANTED_MODULES[@]}"; do
    while read -r line; do
      [[ $line == insmod* ]] || continue # "builtin NAME"
      file=${line#insmod }
      file=${file%% *}
      place_module "$file" "$3" "$number" && number=$((number + 1))
    done < <(modprobe --dirname "$1" --set-version "$2" --show-depends "$name")
  done
}

place_module() { # FILE TARGET NUMBER: unpacked, under a name that sorts in the order of loading; once
  local name
  name=$(basename "$1" | sed 's/\.ko.*//')
  compgen -G "$2/*-$name.ko" >/dev/null && return 1
  case $1 in
    *.xz) xz --decompress --stdout "$1" ;;
    *.zst) zstd --quiet --decompress --stdout "$1" ;;
    *) cat "$1" ;;
  esac >"$2/$3-$name.ko"
}

main() {
  local root version
  mkdir -p "$build"
  if [[ -f $build/initramfs.cpio.gz && -f $build/vmlinuz ]] &&
    [[ -z $(find "$here/build.sh" "$here/init" "$here/workload.c" -newer "$build/initramfs.cpio.gz") ]]; then
    return
  fi
  work=$(mktemp -d "$build/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  root=$work/root
  mkdir -p "$root"/{bin,dev,proc,modules} "$work/kernel"
  echo "guest: fetching a kernel (not installed)" >&2
  version=$(fetch_kernel "$work/kernel")
  echo "guest: Linux $version, workload, initramfs" >&2
  copy_modules "$work/kernel" "$version" "$root/modules"
  cp "$(command -v busybox)" "$root/bin/busybox"
  cp "$here/init" "$root/init"
  gcc -O2 -Wall -Wextra -Werror -static -pthread -o "$root/bin/workload" "$here/workload.c"
  strip "$root/bin/workload"
  cp "$work/kernel/boot/vmlinuz-$version" "$build/vmlinuz"
  (cd "$root" && find . | sort | cpio --quiet -o -H newc --owner 0:0 | gzip -9n) >"$work/initramfs"
  mv "$work/initramfs" "$build/initramfs.cpio.gz"
}

main
