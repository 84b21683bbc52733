#!/bin/bash
# Puts WordPress into /var/www/html when it is not there, writes a wp-config.php that reads the
# environment, then becomes the web server.
set -eo pipefail

case "$1" in
  apache2*) ;;
  *) exec "$@" ;;
esac

target=/var/www/html
source=/usr/src/wordpress

# New files are Apache's to change, unless the whole container runs as somebody else.
if [ "$(id -u)" = 0 ]; then
  copy() { cp -a "$@"; }
  own() { chown www-data:www-data "$@"; }
else
  copy() { cp -R "$@"; }
  own() { :; }
fi

# The two files looked for come last and whole, so that half a copy is never taken for WordPress.
if [ ! -e "$target/index.php" ] || [ ! -e "$target/wp-includes/version.php" ]; then
  echo >&2 "WordPress not found in $target - copying now..."
  own "$target"
  for entry in "$source"/* "$source"/.htaccess; do
    case "${entry##*/}" in
      index.php | wp-includes | wp-config-docker.php) ;;
      *) copy "$entry" "$target/" ;;
    esac
  done
  # Pods that share the volume may do the same at this moment: each copies under a name of its own.
  own_copy=$target/wp-includes.$HOSTNAME
  rm -rf "$own_copy"
  copy "$source/wp-includes" "$own_copy"
  [ -e "$target/wp-includes/version.php" ] || rm -rf "$target/wp-includes"
  mv -T "$own_copy" "$target/wp-includes" 2> /dev/null || rm -rf "$own_copy"
  own "$target/.htaccess"
  copy "$source/index.php" "$target/"
  echo >&2 "Complete! WordPress has been successfully copied to $target"
fi

if [ ! -s "$target/wp-config.php" ]; then
  # Here too, each pod writes a file of its own, and one gets the name.
  new=$(mktemp "$target/wp-config-XXXXXX")
  while IFS= read -r line; do
    while [ "${line/put your unique phrase here/}" != "$line" ]; do
      line=${line/put your unique phrase here/$(head -c 48 /dev/urandom | base64 | tr -d '\n')}
    done
    printf '%s\n' "$line"
  done < "$source/wp-config-docker.php" > "$new"
  chmod 644 "$new"
  own "$new"
  ln "$new" "$target/wp-config.php" 2> /dev/null || [ -s "$target/wp-config.php" ] || mv "$new" "$target/wp-config.php"
  rm -f "$new"
fi

exec "$@"
