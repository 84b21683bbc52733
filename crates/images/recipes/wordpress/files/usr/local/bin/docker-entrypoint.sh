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

# The owner of new files: Apache's processes, unless the whole container runs as somebody else.
own() { [ "$(id -u)" != 0 ] || chown -R www-data:www-data "$@"; }

# The version file is copied last, under another name first: so half a copy is not taken for a whole one.
if [ ! -e "$target/index.php" ] || [ ! -e "$target/wp-includes/version.php" ]; then
  echo >&2 "WordPress not found in $target - copying now..."
  (cd "$source" && tar -cf - --exclude ./wp-includes/version.php .) | tar -xf - -C "$target"
  own "$target"
  cp "$source/wp-includes/version.php" "$target/wp-includes/version.php.new"
  own "$target/wp-includes/version.php.new"
  mv "$target/wp-includes/version.php.new" "$target/wp-includes/version.php"
  echo >&2 "Complete! WordPress has been successfully copied to $target"
fi

if [ ! -s "$target/wp-config.php" ]; then
  # Pods that share the volume may come by at once: each writes a file of its own, one name wins.
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
