# Writes the secrets of one process of the shop into files, and writes them again when they change. OpenBao's agent;
# HashiCorp Vault's takes the same file. One agent beside each process, with the process's role:
#
#     SHOP_ROLE=users_api BAO_ADDR=https://openbao.example:8200 bao agent -config deploy/openbao/agent.hcl
#
# docs/operations.md, "Secrets from OpenBao", has the steps.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/run/openbao/role_id"
      secret_id_file_path                 = "/run/openbao/secret_id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # What is only stored, and has no lease, is asked for so often.
  static_secret_render_interval = "30s"
  # A store that is away leaves the files as they are.
  exit_on_retry_failure = false
}

# SHOP_…__DATABASE_URL_FILE: a role of its own for this process, valid for a day. Before it ends there is a new one, and
# both are valid for hours. SHOP_DATABASE is where: host/database?sslmode=verify-full&sslrootcert=…
template {
  destination          = "/run/secrets/database_url"
  perms                = "0440"
  error_on_missing_key = true
  contents             = <<EOT
{{ with secret (printf "database/creds/%s" (env "SHOP_ROLE")) -}}
postgresql://{{ .Data.username }}:{{ .Data.password }}@{{ env "SHOP_DATABASE" }}
{{ end -}}
EOT
}

# SHOP_KAFKA__SASL_PASSWORD_FILE, of a worker. Empty for an API, which does not use Kafka.
template {
  destination = "/run/secrets/kafka_password"
  perms       = "0440"
  contents    = <<EOT
{{ with secret (printf "secret/data/eventshop/%s" (env "SHOP_ROLE")) }}{{ range .Data.data.kafka_password | split "\n" }}{{ . }}
{{ end }}{{ end -}}
EOT
}

# SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE, of the API that signs tokens. Empty for others.
template {
  destination = "/run/secrets/key_encryption_key"
  perms       = "0440"
  contents    = <<EOT
{{ with secret (printf "secret/data/eventshop/%s" (env "SHOP_ROLE")) }}{{ range .Data.data.key_encryption_key | split "\n" }}{{ . }}
{{ end }}{{ end -}}
EOT
}
