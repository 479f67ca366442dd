# Tells OpenBao (or HashiCorp Vault, with `bao` as a link to `vault`) about one service: where its database is, which
# roles it may make there, and who may read what. May be run again.
#
#     BAO_ADDR=… BAO_TOKEN=… sh deploy/openbao/setup.sh users 'postgresql://{{username}}:{{password}}@users-db/postgres?sslmode=verify-full' FILE
#
# FILE has the password of the role `openbao`, which an administrator makes in that server after `shop roles`:
#
#     CREATE ROLE openbao LOGIN CREATEROLE PASSWORD '…';
#     GRANT users_api, users_worker TO openbao WITH ADMIN OPTION, INHERIT FALSE;
set -eu
service=${1:?the service}
url=${2:?the URL of its database server, with {{username\}\} and {{password\}\}}
file=${3:?the file with the password of the role openbao}
lifetime=${SHOP_LIFETIME:-24h} # longer than a connection lives, which is an hour

bao secrets list | grep -q '^database/' || bao secrets enable database
bao secrets list | grep -q '^secret/' || bao secrets enable -path=secret -version=2 kv
bao auth list | grep -q '^approle/' || bao auth enable approle

bao write "database/config/$service" plugin_name=postgresql-database-plugin \
    allowed_roles="${service}_api,${service}_worker" connection_url="$url" \
    username=openbao password=@"$file" password_authentication=scram-sha-256
for part in api worker; do
    role=${service}_$part
    # INHERIT: it has the rights of the role that `shop migrate` gives rights to.
    bao write "database/roles/$role" db_name="$service" default_ttl="$lifetime" max_ttl="$lifetime" \
        creation_statements="CREATE ROLE \"{{name}}\" LOGIN INHERIT PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE \"$role\"" \
        revocation_statements="DROP ROLE IF EXISTS \"{{name}}\""
    bao policy write "$role" - << POLICY
path "database/creds/$role" { capabilities = ["read"] }
path "secret/data/eventshop/$role" { capabilities = ["read"] }
POLICY
    bao write "auth/approle/role/$role" token_policies="$role" token_ttl=1h token_max_ttl=0 secret_id_num_uses=0
done
