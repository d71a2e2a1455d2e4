#!/bin/sh
set -e
sed -i "s/@NAME@/${SITE_NAME:-nameless}/" /usr/share/nginx/html/index.html
exec "$@"
