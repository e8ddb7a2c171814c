output "job_name" {
  description = "Name of the Job that brings the schema up to date: presence-schema-<first 8 hex digits of schema_hash>."
  value       = kubectl_manifest.job.name

  # Whoever uses the name can rely on the schema.
  depends_on = [kubectl_manifest.gate]
}

output "schema_hash" {
  description = "SHA-256 over all migrations, as presence-operator migrate --print-hash shows it."
  value       = local.schema_hash
}

output "namespace" {
  description = "Namespace of the Job and of the shared board."
  value       = var.namespace

  depends_on = [kubectl_manifest.namespace]
}

output "dsn_secret" {
  description = "Name and key of the Secret that holds the address of the database."
  value       = { name = var.dsn_secret.name, key = var.dsn_secret.key }
}

output "crds" {
  description = "Names of the custom resource definitions that the module installed."
  value       = sort([for crd in kubectl_manifest.crd : crd.name])
}
