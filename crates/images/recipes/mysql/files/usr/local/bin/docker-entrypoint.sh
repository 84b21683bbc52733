#!/bin/bash
# Makes a data directory when there is none, then becomes mysqld.
#
# Understands what the official image does: MYSQL_ROOT_PASSWORD, MYSQL_ROOT_HOST, MYSQL_DATABASE,
# MYSQL_USER, MYSQL_PASSWORD (each also as NAME_FILE), MYSQL_ALLOW_EMPTY_PASSWORD and
# MYSQL_RANDOM_ROOT_PASSWORD, and /docker-entrypoint-initdb.d/*.{sql,sh}.
set -eo pipefail

say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) [$1] [Entrypoint]: $2"; }
fail() { say ERROR "$1" >&2; exit 1; }

# from_file NAME: a value may also stand in the file that NAME_FILE names (a mounted Secret).
from_file() {
  local name=$1 file_name="${1}_FILE"
  [ -z "${!name}" ] || [ -z "${!file_name}" ] || fail "Both $name and $file_name are set (but are exclusive)"
  if [ -n "${!file_name}" ]; then
    export "$name"="$(< "${!file_name}")"
  fi
  unset "$file_name"
}

# quoted TEXT: TEXT as a string of SQL.
quoted() {
  local text=${1//\\/\\\\}
  printf "'%s'" "${text//\'/\'\'}"
}

# identifier TEXT: TEXT as a name of SQL.
identifier() { printf '`%s`' "${1//\`/\`\`}"; }

# The statements that a new server runs once, one a line.
first_statements() {
  local password host=${MYSQL_ROOT_HOST-%}
  password=$(quoted "$MYSQL_ROOT_PASSWORD")
  echo "ALTER USER 'root'@'localhost' IDENTIFIED BY $password;"
  if [ -n "$host" ] && [ "$host" != localhost ]; then
    echo "CREATE USER 'root'@$(quoted "$host") IDENTIFIED BY $password;"
    echo "GRANT ALL ON *.* TO 'root'@$(quoted "$host") WITH GRANT OPTION;"
  fi
  if [ -n "$MYSQL_DATABASE" ]; then
    echo "CREATE DATABASE IF NOT EXISTS $(identifier "$MYSQL_DATABASE");"
  fi
  if [ -n "$MYSQL_USER" ]; then
    echo "CREATE USER $(quoted "$MYSQL_USER")@'%' IDENTIFIED BY $(quoted "$MYSQL_PASSWORD");"
    if [ -n "$MYSQL_DATABASE" ]; then
      echo "GRANT ALL ON $(identifier "${MYSQL_DATABASE//_/\\_}").* TO $(quoted "$MYSQL_USER")@'%';"
    fi
  fi
}

check_environment() {
  if [ -z "$MYSQL_ROOT_PASSWORD$MYSQL_ALLOW_EMPTY_PASSWORD$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    fail "Database is uninitialized and password option is not specified
    You need to specify one of the following as an environment variable:
    - MYSQL_ROOT_PASSWORD
    - MYSQL_ALLOW_EMPTY_PASSWORD
    - MYSQL_RANDOM_ROOT_PASSWORD"
  fi
  [ "$MYSQL_USER" != root ] || fail 'MYSQL_USER="root": MYSQL_USER and MYSQL_PASSWORD are for configuring a regular user and cannot be used for the root user'
  [ -z "$MYSQL_USER" ] || [ -n "$MYSQL_PASSWORD" ] || fail 'MYSQL_USER specified, but missing MYSQL_PASSWORD; MYSQL_USER will not be created'
  case "$MYSQL_ROOT_PASSWORD$MYSQL_PASSWORD" in *$'\n'*) fail 'a password may not contain a line break' ;; esac
}

# initialize DATA ARGUMENT...: a data directory in DATA, or nothing that could be taken for one.
#
# The server works in a folder beside the final place; what it made is moved up when it is whole, and
# `mysql/` last, by which the next start knows. So a kill at any moment means: start over.
initialize() {
  local data=$1 work=$1/initializing statements status=0
  shift
  say Note 'Initializing database files'
  if [ -n "$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    MYSQL_ROOT_PASSWORD=$(head -c 24 /dev/urandom | base64 | tr -d '+/=')
    say Note "GENERATED ROOT PASSWORD: $MYSQL_ROOT_PASSWORD"
  fi
  rm -rf "$work"
  statements=$(mktemp)
  first_statements > "$statements"
  [ "$(id -u)" != 0 ] || chown mysql "$statements"
  # What is thrown away after a crash needs no safety while it is made; `sync` comes once, below.
  "$@" --datadir="$work" --initialize-insecure --init-file="$statements" \
    --innodb-doublewrite=OFF --innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync \
    --log-error-verbosity=1 || status=$?
  rm -f "$statements"
  [ "$status" = 0 ] || fail "mysqld --initialize ended with status $status"
  run_scripts "$work" "$@"
  sync -f "$work" 2>/dev/null || sync
  for entry in "$work"/* ; do
    [ "${entry##*/}" = mysql ] || [ "${entry##*/}" = mysql.ibd ] || replace "$entry" "$data"
  done
  replace "$work/mysql.ibd" "$data"
  replace "$work/mysql" "$data"
  rm -rf "$work"
  sync
  say Note 'Database files initialized'
}

# replace ENTRY FOLDER: moves ENTRY into FOLDER, over what an interrupted start may have left there.
replace() {
  rm -rf "$2/${1##*/}"
  mv "$1" "$2/"
}

# run_scripts WORK ARGUMENT...: what /docker-entrypoint-initdb.d holds, against a server without a network.
run_scripts() {
  local work=$1 socket=/var/run/mysqld/initializing.sock client server script
  shift
  ls /docker-entrypoint-initdb.d/* > /dev/null 2>&1 || return 0
  "$@" --datadir="$work" --skip-networking --socket="$socket" &
  server=$!
  client=(mysql --socket="$socket" -uroot)
  export MYSQL_PWD=$MYSQL_ROOT_PASSWORD
  until "${client[@]}" -e 'SELECT 1' > /dev/null 2>&1; do
    kill -0 "$server" 2> /dev/null || fail 'the server for /docker-entrypoint-initdb.d does not start'
    sleep 0.2
  done
  for script in /docker-entrypoint-initdb.d/*; do
    say Note "running $script"
    case "$script" in
      *.sh) . "$script" ;;
      *.sql) "${client[@]}" ${MYSQL_DATABASE:+--database="$MYSQL_DATABASE"} < "$script" ;;
      *.sql.gz) gunzip -c "$script" | "${client[@]}" ${MYSQL_DATABASE:+--database="$MYSQL_DATABASE"} ;;
      *) say Warn "ignoring $script" ;;
    esac
  done
  unset MYSQL_PWD
  kill "$server"
  wait "$server"
}

# Arguments that are only options are mysqld's.
[ "${1#-}" = "$1" ] || set -- mysqld "$@"

if [ "$1" = mysqld ]; then
  # While no server is there to stop cleanly, TERM ends this script, and the children die with process 1.
  trap 'exit 143' TERM INT
  data=/var/lib/mysql
  for argument in "$@"; do
    case "$argument" in --datadir=*) data=${argument#--datadir=} ;; --help | --version | -V | '-?') exec "$@" ;; esac
  done
  for name in MYSQL_ROOT_PASSWORD MYSQL_ROOT_HOST MYSQL_DATABASE MYSQL_USER MYSQL_PASSWORD; do from_file "$name"; done
  mkdir -p "$data"
  if [ "$(id -u)" = 0 ]; then
    find "$data" /var/run/mysqld ! -user mysql -exec chown -h mysql:mysql {} +
  fi
  if [ ! -d "$data/mysql" ]; then
    check_environment
    initialize "$data" "$@" &
    wait $! || exit
  fi
  rm -rf "$data/initializing"
  # Secrets are not for those who look at the server's environment.
  unset MYSQL_ROOT_PASSWORD MYSQL_PASSWORD
  trap - TERM INT
fi
exec "$@"
