variable "image" {
  description = "Image of the operator, which carries the migration program too, such as registry.example.com/presence-operator:0.1.0."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*$", var.image))
    error_message = "Write an image reference such as registry.example.com/presence-operator:0.1.0."
  }
}

variable "namespace" {
  description = "Namespace of the Job; also the shared board that the command line uses when it is told no other."
  type        = string
  default     = "presence"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace has at most 63 lower-case letters, digits and dashes, and begins and ends with a letter or digit: write for example presence."
  }
}

variable "create_namespace" {
  description = "Whether to create the namespace, and to delete it with everything in it on destroy. False uses one that exists."
  type        = bool
  default     = true
  nullable    = false
}

variable "apply_crds" {
  description = "Whether to install the custom resource definitions. False when they are installed otherwise."
  type        = bool
  default     = true
  nullable    = false
}

variable "keep_crds" {
  description = "Whether destroy leaves the custom resource definitions in place, and so every claim and session of the cluster."
  type        = bool
  default     = false
  nullable    = false
}

variable "dsn_secret" {
  description = "Secret in the namespace, and its key, that hold the address of the database, mysql://<user>:<password>@<host>:3306/<database>: presence-dsn and PRESENCE_DSN unless you say otherwise."
  type = object({
    name = optional(string, "presence-dsn")
    key  = optional(string, "PRESENCE_DSN")
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", var.dsn_secret.name))
    error_message = "The name of a Secret has at most 253 lower-case letters, digits, dashes and dots: write for example presence-dsn."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{1,253}$", var.dsn_secret.key))
    error_message = "The key of a Secret has at most 253 letters, digits, dashes, dots and underscores: write for example PRESENCE_DSN."
  }
}

variable "dsn" {
  description = "Address of the database. When it is set, the Secret is created from it (and the address is in Terraform's state); when it is null, the Secret must exist."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.dsn == null || can(regex("^mysql://[^\\s]+/[^\\s/]+$", var.dsn))
    error_message = "Write mysql://<user>:<password>@<host>:3306/<database>, with special characters in the password percent-encoded."
  }
}

variable "migrations_dir" {
  description = "Directory of the numbered SQL migrations. Null takes those of the operator that belongs to this version of the module."
  type        = string
  default     = null

  validation {
    condition     = var.migrations_dir == null || try(length(fileset(var.migrations_dir, "*.sql")) > 0, false)
    error_message = "The directory holds no *.sql file: name the directory that does, or leave the variable out."
  }
}

variable "crds_dir" {
  description = "Directory of the custom resource definitions. Null takes those of this version of the module."
  type        = string
  default     = null
}

variable "wait_for_completion" {
  description = "Whether apply waits until the migration is done, and fails with its reason when it fails."
  type        = bool
  default     = true
  nullable    = false
}

variable "job_timeout_seconds" {
  description = "How long the migration may take, retries included."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.job_timeout_seconds >= 10 && var.job_timeout_seconds <= 3600 && floor(var.job_timeout_seconds) == var.job_timeout_seconds
    error_message = "Write whole seconds between 10 and 3600."
  }
}

variable "backoff_limit" {
  description = "How often the migration is tried again when the database does not answer. A migration that the database rejects fails at once."
  type        = number
  default     = 3
  nullable    = false

  validation {
    condition     = var.backoff_limit >= 0 && var.backoff_limit <= 20 && floor(var.backoff_limit) == var.backoff_limit
    error_message = "Write a whole number between 0 and 20."
  }
}

variable "labels" {
  description = "Labels for every object that the module makes but the definitions, besides its own app.kubernetes.io labels."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for value in values(var.labels) : can(regex("^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$", value))])
    error_message = "The value of a label has at most 63 letters, digits, dashes, dots and underscores, and begins and ends with a letter or digit."
  }
}

variable "image_pull_policy" {
  description = "Always, IfNotPresent or Never."
  type        = string
  default     = "IfNotPresent"
  nullable    = false

  validation {
    condition     = contains(["Always", "IfNotPresent", "Never"], var.image_pull_policy)
    error_message = "Write Always, IfNotPresent or Never."
  }
}

variable "image_pull_secrets" {
  description = "Names of Secrets in the namespace with credentials for the image's registry."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "resources" {
  description = "Resource requests and limits of the migration's container."
  type = object({
    requests = optional(map(string), {})
    limits   = optional(map(string), {})
  })
  default = {
    requests = { cpu = "50m", memory = "64Mi" }
    limits   = { memory = "256Mi" }
  }
  nullable = false
}

variable "node_selector" {
  description = "Labels of the nodes that may run the pods."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "tolerations" {
  description = "Taints of nodes that the pods tolerate, in the form of the Kubernetes API."
  type = list(object({
    key               = optional(string)
    operator          = optional(string)
    value             = optional(string)
    effect            = optional(string)
    tolerationSeconds = optional(number)
  }))
  default  = []
  nullable = false
}

variable "extra_pod_spec" {
  description = "Further fields of the pods' spec in the form of the Kubernetes API, such as { priorityClassName = \"system-cluster-critical\" }. They replace the module's own."
  type        = any
  default     = {}
  nullable    = false
}
