# Gives a connector to Kafka Connect in distributed mode, or changes it.
#
#     sh deploy/connect/register.sh http://host:8083 deploy/connect/orders.properties
set -eu
connect=${1:?the address of Kafka Connect, like http://host:8083}
file=${2:?the properties of the connector}
name=$(sed -n 's/^name=//p' "$file")
sed -n -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^\([a-z][^=#]*\)=\(.*\)$/"\1":"\2"/p' "$file" | paste -sd, - | sed 's/.*/{&}/' |
    curl --fail-with-body --silent --show-error --request PUT --header 'Content-Type: application/json' \
        --data-binary @- "$connect/connectors/$name/config"
echo
