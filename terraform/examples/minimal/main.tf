# The smallest use: the module creates the namespace, the Secret and everything else.
#   TF_VAR_dsn='mysql://presence:...@dolt.example.com:3306/beads' terraform apply -var image=registry.example.com/presence-operator:0.1.0

terraform {
  required_version = ">= 1.5"

  required_providers {
    kubectl = {
      source  = "gavinbunney/kubectl"
      version = ">= 1.19.0"
    }
  }
}

variable "image" {
  description = "Image of the operator."
  type        = string
}

variable "dsn" {
  description = "Address of the database: mysql://<user>:<password>@<host>:3306/<database>."
  type        = string
  sensitive   = true
}

# Takes the cluster from KUBECONFIG; a context can be named with config_context.
provider "kubectl" {}

module "presence" {
  source = "../.."

  image = var.image
  dsn   = var.dsn
}

output "job_name" {
  description = "The Job that brought the schema up to date."
  value       = module.presence.job_name
}

output "schema_hash" {
  description = "SHA-256 over all migrations."
  value       = module.presence.schema_hash
}
