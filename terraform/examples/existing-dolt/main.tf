# A database, a namespace and a Secret that are managed elsewhere: the password never comes near Terraform's state.
#   kubectl create namespace presence
#   kubectl -n presence create secret generic dolt-credentials --from-literal=dsn='mysql://presence:...@dolt.dolt.svc:3306/beads'
#   terraform apply -var image=registry.example.com/presence-operator:0.1.0

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

variable "namespace" {
  description = "Namespace that exists already."
  type        = string
  default     = "presence"
}

variable "context" {
  description = "Context of the kubeconfig; null takes the current one."
  type        = string
  default     = null
}

provider "kubectl" {
  config_context = var.context
}

module "presence" {
  source = "../.."

  image            = var.image
  namespace        = var.namespace
  create_namespace = false
  dsn_secret       = { name = "dolt-credentials", key = "dsn" }
  labels           = { team = "platform" }
}

output "job_name" {
  description = "The Job that brought the schema up to date."
  value       = module.presence.job_name
}
