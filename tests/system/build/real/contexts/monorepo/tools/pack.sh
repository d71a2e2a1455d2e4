cd "$1" && find . -type f | sort
