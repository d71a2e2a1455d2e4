. ../common/greet.sh
greet api
