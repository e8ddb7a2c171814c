locals {
  migrations_dir = coalesce(var.migrations_dir, "${path.module}/../operator/presence_operator/migrations")
  crds_dir       = coalesce(var.crds_dir, "${path.module}/../crds")

  # The same digest as `presence-operator migrate --print-hash`: name, NUL, content, NUL of every file in the order of names.
  migrations  = { for name in fileset(local.migrations_dir, "*.sql") : name => file("${local.migrations_dir}/${name}") }
  schema_hash = sha256(join("", [for name in sort(keys(local.migrations)) : "${name}\u0000${local.migrations[name]}\u0000"]))

  # A changed schema is a new Job with a ConfigMap of its own, so that the retry of an old Job never runs newer SQL.
  name      = "presence-schema-${substr(local.schema_hash, 0, 8)}"
  gate_name = "${local.name}-gate"

  crds = var.apply_crds ? {
    for name in fileset(local.crds_dir, "*.yaml") : yamldecode(file("${local.crds_dir}/${name}")).metadata.name => file("${local.crds_dir}/${name}")
    if try(yamldecode(file("${local.crds_dir}/${name}")).kind, "") == "CustomResourceDefinition"
  } : {}

  labels = merge(var.labels, {
    "app.kubernetes.io/name"       = "presence"
    "app.kubernetes.io/component"  = "schema"
    "app.kubernetes.io/managed-by" = "terraform"
  })
  metadata = { namespace = var.namespace, labels = local.labels }

  pod_spec = merge(
    {
      restartPolicy = "Never"
      securityContext = {
        runAsNonRoot   = true
        runAsUser      = 65532
        runAsGroup     = 65532
        seccompProfile = { type = "RuntimeDefault" }
      }
      enableServiceLinks = false
    },
    length(var.image_pull_secrets) > 0 ? { imagePullSecrets = [for name in var.image_pull_secrets : { name = name }] } : {},
    length(var.node_selector) > 0 ? { nodeSelector = var.node_selector } : {},
    length(var.tolerations) > 0 ? { tolerations = [for each in var.tolerations : { for key, value in each : key => value if value != null }] } : {},
  )
  container = {
    image           = var.image
    imagePullPolicy = var.image_pull_policy
    securityContext = {
      allowPrivilegeEscalation = false
      readOnlyRootFilesystem   = true
      capabilities             = { drop = ["ALL"] }
    }
    # What a container says last explains its failure, where kubectl describe and the gate find it.
    terminationMessagePolicy = "FallbackToLogsOnError"
  }
}

resource "kubectl_manifest" "crd" {
  for_each = local.crds

  yaml_body         = each.value
  server_side_apply = true
  # Whoever applied the definitions before gives them up to Terraform.
  force_conflicts = true
  apply_only      = var.keep_crds
  wait            = !var.keep_crds
}

resource "kubectl_manifest" "namespace" {
  count = var.create_namespace ? 1 : 0

  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Namespace"
    metadata   = { name = var.namespace, labels = local.labels }
  })
  wait = true
}

resource "kubectl_manifest" "dsn" {
  count = nonsensitive(var.dsn != null) ? 1 : 0

  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Secret"
    metadata   = merge(local.metadata, { name = var.dsn_secret.name })
    type       = "Opaque"
    data       = { (var.dsn_secret.key) = base64encode(var.dsn) }
  })
  sensitive_fields = ["data"]

  depends_on = [kubectl_manifest.namespace]
}

resource "kubectl_manifest" "migrations" {
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "ConfigMap"
    metadata   = merge(local.metadata, { name = local.name })
    immutable  = true
    data       = local.migrations
  })

  depends_on = [kubectl_manifest.namespace]

  lifecycle {
    precondition {
      condition     = length(local.migrations) > 0 && (!var.apply_crds || length(local.crds) > 0)
      error_message = "The module needs the rest of its repository. Write the source as a relative path (../presence/terraform) or with a double slash (git::https://<host>/<repository>.git//terraform)."
    }
  }
}

resource "kubectl_manifest" "job" {
  yaml_body = yamlencode({
    apiVersion = "batch/v1"
    kind       = "Job"
    metadata = merge(local.metadata, {
      name        = local.name
      annotations = { "presence.dev/schema-hash" = local.schema_hash }
    })
    # No ttlSecondsAfterFinished: Terraform would miss the Job and run it again.
    spec = {
      backoffLimit          = var.backoff_limit
      activeDeadlineSeconds = var.job_timeout_seconds
      podFailurePolicy = {
        rules = [
          # 1: the database rejected the SQL. 2: the configuration is wrong. To try again would not help.
          { action = "FailJob", onExitCodes = { containerName = "migrate", operator = "In", values = [1, 2] } },
          { action = "Ignore", onPodConditions = [{ type = "DisruptionTarget", status = "True" }] },
        ]
      }
      template = {
        metadata = { labels = local.labels }
        spec = merge(local.pod_spec, {
          automountServiceAccountToken = false
          containers = [merge(local.container, {
            name      = "migrate"
            command   = ["presence-operator", "migrate", "--migrations", "/migrations"]
            resources = var.resources
            env = [{
              name      = "PRESENCE_DSN"
              valueFrom = { secretKeyRef = { name = var.dsn_secret.name, key = var.dsn_secret.key } }
            }]
            volumeMounts = [{ name = "migrations", mountPath = "/migrations", readOnly = true }]
          })]
          volumes = [{ name = "migrations", configMap = { name = local.name } }]
        }, var.extra_pod_spec)
      }
    }
  })
  # The template of a Job cannot be changed.
  force_new = true

  depends_on = [kubectl_manifest.namespace, kubectl_manifest.migrations, kubectl_manifest.dsn]
}

# The provider can wait for the rollout of a Deployment, but not for a Job. So the gate, a Deployment of one small pod,
# follows the Job: when the Job is complete it scales itself to zero, which ends its rollout; when the Job has failed it
# makes the rollout fail with the Job's reason.
locals {
  gate_access = {
    ServiceAccount = {
      apiVersion                   = "v1"
      automountServiceAccountToken = false
    }
    Role = {
      apiVersion = "rbac.authorization.k8s.io/v1"
      rules = [
        { apiGroups = ["batch"], resources = ["jobs"], resourceNames = [local.name], verbs = ["get"] },
        { apiGroups = [""], resources = ["pods"], verbs = ["list"] },
        { apiGroups = ["apps"], resources = ["deployments/scale", "deployments/status"], resourceNames = [local.gate_name], verbs = ["patch"] },
      ]
    }
    RoleBinding = {
      apiVersion = "rbac.authorization.k8s.io/v1"
      roleRef    = { apiGroup = "rbac.authorization.k8s.io", kind = "Role", name = local.gate_name }
      subjects   = [{ kind = "ServiceAccount", name = local.gate_name, namespace = var.namespace }]
    }
  }
}

resource "kubectl_manifest" "gate_access" {
  for_each = { for kind, body in local.gate_access : kind => body if var.wait_for_completion }

  yaml_body = yamlencode(merge(each.value, {
    kind     = each.key
    metadata = merge(local.metadata, { name = local.gate_name })
  }))

  depends_on = [kubectl_manifest.namespace]
}

resource "kubectl_manifest" "gate" {
  count = var.wait_for_completion ? 1 : 0

  yaml_body = yamlencode({
    apiVersion = "apps/v1"
    kind       = "Deployment"
    metadata   = merge(local.metadata, { name = local.gate_name })
    # No replicas: one by default, none as soon as the gate has done its work.
    spec = {
      revisionHistoryLimit    = 0
      progressDeadlineSeconds = var.job_timeout_seconds + 60
      strategy                = { type = "Recreate" }
      selector                = { matchLabels = { "presence.dev/gate" = local.gate_name } }
      template = {
        metadata = {
          labels = merge(local.labels, { "presence.dev/gate" = local.gate_name })
          # A Job that was made anew is waited for anew.
          annotations = { "presence.dev/job-uid" = kubectl_manifest.job.uid }
        }
        spec = merge(local.pod_spec, {
          restartPolicy                 = "Always"
          serviceAccountName            = local.gate_name
          automountServiceAccountToken  = true
          terminationGracePeriodSeconds = 5
          # Nobody opens it: the pod is never ready, so the rollout ends when the gate says so.
          readinessGates = [{ conditionType = "presence.dev/schema-migrated" }]
          containers = [merge(local.container, {
            name      = "gate"
            command   = ["python3", "-m", "presence_operator.job_gate", "--job", local.name, "--deployment", local.gate_name]
            resources = { requests = { cpu = "10m", memory = "32Mi" }, limits = { memory = "128Mi" } }
          })]
        }, var.extra_pod_spec)
      }
    }
  })
  force_new = true

  timeouts {
    create = "${var.job_timeout_seconds + 120}s"
  }

  depends_on = [kubectl_manifest.gate_access]
}
