# Makes what deploy/compose.prod.yaml needs, in deploy/secrets: random passwords, an authority for the connections
# inside, and certificates of the servers. What is there already stays.
#
#     sudo sh deploy/secrets.sh DOMAIN [SERVICE …]
#
# Run it as root: each file belongs to the user of the container that reads it. Bring the gateway's certificate
# yourself, for DOMAIN; until then it has one that this authority signed. EVENTSHOP_SECRETS names another folder.
set -eu
umask 077
[ "$(id -u)" = 0 ] || [ "${EVENTSHOP_SECRETS:-}" ] || { echo "run it as root: sudo sh $0 DOMAIN" >&2; exit 1; }
domain=${1:?the domain of the shop, like shop.example}
shift
[ $# -gt 0 ] || set -- @services@
here=${EVENTSHOP_SECRETS:-$(dirname "$0")/secrets}
also=${EVENTSHOP_ALSO:+,$EVENTSHOP_ALSO} # more names in certificates, for tests
shop=10001 postgres=999 kafka=1000 nginx=101 # users in the images

# Owned by root, so that a container can't change it; read by the group of its user.
give() { # GROUP PATH
    [ "$(id -u)" != 0 ] || chown "0:$1" "$2"
}
own() { # GROUP FILE
    give "$1" "$2" && chmod 440 "$2"
}
folder() { # NAME GROUP
    mkdir -p "$here/$1" && give "$2" "$here/$1" && chmod 750 "$here/$1"
}
random() { # FILE GROUP
    [ -s "$here/$1" ] || { openssl rand -base64 32 > "$here/$1.new" && mv "$here/$1.new" "$here/$1"; }
    own "$2" "$here/$1"
}
same() { # FILE FOLDER/FILE GROUP
    cmp -s "$here/$1" "$here/$2" || { cp "$here/$1" "$here/$2.new" && mv "$here/$2.new" "$here/$2"; }
    own "$3" "$here/$2"
}
bare() { # FILE FOLDER/FILE GROUP; the newest password alone, for Kafka Connect, which would take a newline for a part of it
    tail -n 1 "$here/$1" | tr -d '\n' > "$here/$2.new"
    cmp -s "$here/$2.new" "$here/$2" && rm "$here/$2.new" || mv "$here/$2.new" "$here/$2"
    own "$3" "$here/$2"
}
certificate() { # HOST CERTIFICATE KEY GROUP
    if [ ! -s "$here/$2" ]; then
        openssl req -new -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$here/$3" -out "$here/request" 2> /dev/null
        printf 'subjectAltName=DNS:%s%s\nextendedKeyUsage=serverAuth\n' "$1" "$also" > "$here/extensions"
        openssl x509 -req -in "$here/request" -CA "$here/authority/ca.crt" -CAkey "$here/authority/ca.key" \
            -CAcreateserial -days 825 -extfile "$here/extensions" -out "$here/$2" 2> /dev/null
        rm "$here/request" "$here/extensions"
    fi
    own "$4" "$here/$2" && own "$4" "$here/$3"
}

mkdir -p "$here/authority" "$here/passwords"
if [ ! -s "$here/authority/ca.key" ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=eventshop, inside" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$here/authority/ca.key" -out "$here/authority/ca.crt" 2> /dev/null
fi

folder migrate "$shop" && same authority/ca.crt migrate/ca.crt "$shop"
folder kafka-roles "$shop"
random passwords/kafka_migrate_password "$shop"
same passwords/kafka_migrate_password kafka-roles/kafka_migrate_password "$shop"
same passwords/kafka_migrate_password migrate/kafka_password "$shop"
# For change data capture. They are used only with SHOP_RELAY=cdc.
folder cdc-begin "$shop" && same authority/ca.crt cdc-begin/ca.crt "$shop"
same passwords/kafka_migrate_password cdc-begin/kafka_password "$shop"
folder connect "$kafka" && same authority/ca.crt connect/ca.crt "$kafka"
random passwords/kafka_connect_password "$shop"
same passwords/kafka_connect_password kafka-roles/kafka_connect_password "$shop"
bare passwords/kafka_connect_password connect/kafka_password "$kafka"
for service; do
    for part in api worker roles; do
        folder "$service-$part" "$shop"
        same authority/ca.crt "$service-$part/ca.crt" "$shop"
    done
    folder "$service-db" "$postgres"
    certificate "$service-db" "$service-db/server.crt" "$service-db/server.key" "$postgres"
    random "passwords/${service}_administrator_password" "$shop"
    same "passwords/${service}_administrator_password" "$service-db/administrator_password" "$postgres"
    same "passwords/${service}_administrator_password" "$service-roles/administrator_password" "$shop"
    for role in "$service" "${service}_api" "${service}_worker" "${service}_front" "${service}_cdc"; do
        random "passwords/${role}_password" "$shop"
        same "passwords/${role}_password" "$service-roles/${role}_password" "$shop"
    done
    same "passwords/${service}_password" "migrate/${service}_password" "$shop"
    same "passwords/${service}_password" "cdc-begin/${service}_password" "$shop"
    same "passwords/${service}_cdc_password" "cdc-begin/${service}_cdc_password" "$shop"
    bare "passwords/${service}_cdc_password" "connect/${service}_cdc_password" "$kafka"
    same "passwords/${service}_api_password" "$service-api/database_password" "$shop"
    same "passwords/${service}_worker_password" "$service-worker/database_password" "$shop"
    random "passwords/kafka_${service}_password" "$shop"
    same "passwords/kafka_${service}_password" "kafka-roles/kafka_${service}_password" "$shop"
    same "passwords/kafka_${service}_password" "$service-worker/kafka_password" "$shop"
done
for front in @fronts@; do
    folder "$front" "$shop" && same authority/ca.crt "$front/ca.crt" "$shop"
    random "passwords/kafka_${front}_password" "$shop"
    same "passwords/kafka_${front}_password" "kafka-roles/kafka_${front}_password" "$shop"
    same "passwords/kafka_${front}_password" "$front/kafka_password" "$shop"
    for service; do
        same "passwords/${service}_front_password" "$front/${service}_password" "$shop"
    done
done
for service in @issuers@; do
    random "$service-api/key_encryption_key" "$shop"
done

folder kafka "$kafka"
certificate kafka kafka/kafka.crt kafka/kafka.key "$kafka"
cat "$here/kafka/kafka.key" "$here/kafka/kafka.crt" > "$here/kafka/kafka.pem" && own "$kafka" "$here/kafka/kafka.pem"
folder gateway "$nginx"
certificate "$domain" gateway/certificate.pem gateway/key.pem "$nginx"
echo "$here has the secrets of: $*"
