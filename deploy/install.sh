#!/usr/bin/env bash
# Installs Pellucid from the folder this script lies in (made by `make bundle`); also the next version over it.
# No internet is needed. Given twice it changes nothing. What it puts where stands in README.md beside it.
set -euo pipefail
shopt -s inherit_errexit  # without it -e does not hold within $(make_release)
umask 022  # whoever calls it: the service's user has to read what is installed

usage() {
  cat <<'TEXT'
install.sh [--gpu | --jetson | --cpu] [--extra NAME]...   install or upgrade from this bundle; restarts a running service.
                                                          Without a word of the device: for the one it was installed for
install.sh --roll-back                                    the version before serves again
install.sh --backup                                       journal, memories, configuration -> /var/backups/pellucid
install.sh --uninstall                                    away with programs and unit; configuration, data, backups stay
TEXT
}

HOME_DIR=/opt/pellucid CONFIG=/etc/pellucid STATE=/var/lib/pellucid BACKUPS=/var/backups/pellucid
UNIT=/etc/systemd/system/pellucid.service
BUNDLE=$(cd "$(dirname "$0")/.." && pwd)

say() { printf 'install.sh: %s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
target() { readlink "$HOME_DIR/$1" 2>/dev/null || true; }  # current or previous -> releases/NAME

serves() {  # or would, if it could: failed, or waiting for its next try
  case $(systemctl is-active pellucid) in inactive | unknown | "") return 1 ;; esac
}

# From the stop to the start the monitor is away: whatever ends this script in between, the monitor is started again.
RESUME=no PART=""

leave() {
  trap '' INT TERM HUP
  trap - EXIT
  [ -z "$PART" ] || rm -f "$PART" || true
  [ "$RESUME" = yes ] || return 0
  systemctl daemon-reload || true  # unit and program may have been exchanged already
  systemctl reset-failed pellucid 2>/dev/null || true
  if systemctl start pellucid; then
    say "ended early; the monitor runs again" >&2 || true
  else
    say "ended early, and the monitor does not start: journalctl -u pellucid" >&2 || true
  fi
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

start() {  # a signal from here on does not undo it: systemd goes on starting
  systemctl reset-failed pellucid 2>/dev/null || true
  RESUME=no
  systemctl start pellucid || { journalctl -u pellucid -n 5 --no-pager -o cat >&2 || true; return 1; }
}

# -- a release: a virtual environment of its own, and the files of deploy/ that belong to it ---------------------------

make_release() {  # prints its name
  local wheel version name release
  wheel=$(find "$BUNDLE/wheels" -name 'pellucid-*.whl' 2>/dev/null || true)
  [ "$(wc -w <<<"$wheel")" = 1 ] || fail "$BUNDLE/wheels must hold one pellucid-*.whl: was this made by 'make bundle'?"
  version=$(basename "$wheel" | cut -d- -f2)
  name="$version-$(sha256sum "$wheel" | cut -c1-8)$(printf -- '-%s' "${EXTRAS[@]}")"
  release=$HOME_DIR/releases/$name
  if [ ! -e "$release/.complete" ]; then
    say "installing $name" >&2
    rm -rf "$release"
    mkdir -p "$release"
    "$PYTHON" -m venv $SITE_PACKAGES "$release" >&2 ||
      fail "no virtual environment: apt-get install python3-venv"
    local extras; extras=$(IFS=,; printf '%s' "${EXTRAS[*]}")
    "$release/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$BUNDLE/wheels" \
      "pellucid[$extras]==$version" >&2 ||
      fail "pip did not find everything in $BUNDLE/wheels: was the bundle made with the same Python ($("$PYTHON" -V)) and processor ($(uname -m))?"
    cp -r "$BUNDLE/deploy" "$release/deploy"
    "$release/bin/pellucid" engines verify >&2 || fail "the models do not keep their promise on this machine; nothing was switched"
    touch "$release/.complete"
  fi
  printf '%s' "$name"
}

# -- what a release puts in place --------------------------------------------------------------------------------------

lay_out() {
  id -u pellucid >/dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir "$STATE" --shell /usr/sbin/nologin pellucid
  install -d -m 0755 "$HOME_DIR" "$HOME_DIR/releases" "$CONFIG"
  install -d -m 0700 "$CONFIG/secrets" "$BACKUPS"
  install -d -m 0700 -o pellucid -g pellucid "$STATE"
  [ -e "$CONFIG/secrets/mqtt-password" ] || install -m 0600 /dev/null "$CONFIG/secrets/mqtt-password"
}

put() {  # whole or not at all: a full disk must not leave half a unit
  install -D -m 0644 "$1" "$2.new"
  mv -T "$2.new" "$2"
}

switch_to() {  # releases/NAME
  local release=$HOME_DIR/$1 known
  put "$release/deploy/systemd/pellucid.service" "$UNIT"
  if [ -n "$DEVICE" ]; then
    [ "$DEVICE" = cpu ] || put "$release/deploy/systemd/$DEVICE.conf" "$UNIT.d/$DEVICE.conf"
    for known in gpu jetson; do
      [ "$known" = "$DEVICE" ] || rm -f "$UNIT.d/$known.conf"
    done
  fi
  [ -e "$CONFIG/pellucid.toml" ] || put "$release/deploy/pellucid.example.toml" "$CONFIG/pellucid.toml"
  # the program last: what fails before leaves the one that served
  ln -sfn "$1" "$HOME_DIR/current.new"
  mv -T "$HOME_DIR/current.new" "$HOME_DIR/current"
  ln -sf "$HOME_DIR/current/bin/pellucid" /usr/local/bin/pellucid
  systemctl daemon-reload
}

room_for_backup() {  # before the stop; files of the running service may go while they are counted
  local need_kb free_kb
  need_kb=$({ du -skc "$CONFIG" "$STATE" 2>/dev/null || true; } | tail -n 1 | cut -f1)
  free_kb=$(df -Pk "$BACKUPS" | awk 'NR == 2 { print $4 }')
  [ "$need_kb" -lt "$free_kb" ] || fail "a backup needs $need_kb kB, and $BACKUPS has $free_kb kB free; nothing was stopped"
}

back_up() {  # the service must not run
  local file
  file=$BACKUPS/$(date -u +%Y%m%dT%H%M%SZ).tar
  PART=$file.part
  (umask 077 && tar -C / -cf "$PART" "${CONFIG#/}" "${STATE#/}")
  mv "$PART" "$file"
  PART=""
  say "backup: $file ($(du -h "$file" | cut -f1))"
}

# -- the actions -------------------------------------------------------------------------------------------------------

install_or_upgrade() {
  local before was_running=no name
  lay_out
  name=$(make_release)
  before=$(target current)
  if [ "$before" = "releases/$name" ]; then
    switch_to "$before"
    say "$name is in place"
    return
  fi
  serves && was_running=yes
  if [ -n "$before" ]; then
    room_for_backup
    RESUME=$was_running
    systemctl stop pellucid
    back_up
    ln -sfn "$before" "$HOME_DIR/previous"
  fi
  switch_to "releases/$name"
  sweep
  if [ "$was_running" = yes ] && ! start; then
    roll_back yes
    fail "$name did not start; the version before serves again"
  fi
  say "$name is in place"
}

roll_back() {  # [yes]: to be started, however the unit looks now
  local to from was_running=${1:-no}
  to=$(target previous) from=$(target current)
  [ -n "$to" ] && [ "$to" != "$from" ] && [ -e "$HOME_DIR/$to/.complete" ] || fail "there is no version to go back to"
  serves && was_running=yes
  RESUME=$was_running
  systemctl stop pellucid
  switch_to "$to"
  ln -sfn "$from" "$HOME_DIR/previous"
  if [ "$was_running" = yes ] && ! start; then
    fail "${to#releases/} does not start; where it names the schema of the journal, restore the newest of $BACKUPS"
  fi
  say "${to#releases/} is in place"
}

sweep() {  # releases that neither serve nor are the way back
  local release name
  for release in "$HOME_DIR"/releases/*; do
    name=releases/$(basename "$release")
    [ "$name" = "$(target current)" ] || [ "$name" = "$(target previous)" ] || rm -rf "$release"
  done
}

backup() {
  local was_running=no
  room_for_backup
  serves && was_running=yes
  RESUME=$was_running
  systemctl stop pellucid
  back_up
  [ "$was_running" = no ] || start
}

uninstall() {
  systemctl disable --now pellucid 2>/dev/null || true
  systemctl reset-failed pellucid 2>/dev/null || true
  rm -rf "$UNIT" "$UNIT.d" "$HOME_DIR" /usr/local/bin/pellucid
  systemctl daemon-reload
  say "away. What it knew stays: $CONFIG $STATE $BACKUPS and the user pellucid"
}

ACTION=install_or_upgrade DEVICE="" EXTRAS=(web) PYTHON=${PYTHON:-python3} SITE_PACKAGES=""
while [ $# -gt 0 ]; do
  case $1 in
    --gpu | --jetson | --cpu) DEVICE=${1#--} ;;
    --extra) EXTRAS+=("${2:?--extra needs a name}"); shift ;;
    --roll-back) ACTION=roll_back ;;
    --backup) ACTION=backup ;;
    --uninstall) ACTION=uninstall ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
for known in gpu jetson; do  # an upgrade is for what is here
  [ -n "$DEVICE" ] || [ ! -e "$UNIT.d/$known.conf" ] || DEVICE=$known
done
case $DEVICE in
  gpu) EXTRAS+=(tensorrt) ;;
  jetson) EXTRAS+=(jetson) SITE_PACKAGES=--system-site-packages ;;  # JetPack brings TensorRT
esac
[ "$(id -u)" = 0 ] || fail "this needs root"
[ -d /run/systemd/system ] || fail "systemd does not run here"
"$ACTION"
