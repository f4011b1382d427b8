-- Health of every kind of isthmus.dev that has conditions, for Argo CD. In the ConfigMap argocd-cm:
--   resource.customizations.health.isthmus.dev_VirtualMesh: | (this file)
-- and the same for AccessPolicy, VirtualDestination, Settings, CertificateVerification and KubernetesCluster.
local health = { status = "Progressing", message = "Waiting for the hub" }
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  health.message = "Waiting for the hub to see the last change"
  return health
end
local conditions = {}
for _, c in ipairs(status.conditions) do
  conditions[c.type] = c
end
local function is(type, value)
  return conditions[type] ~= nil and conditions[type].status == value
end
if obj.spec ~= nil and obj.spec.suspend == true then
  return { status = "Suspended", message = "spec.suspend holds everything as it is" }
end
if status.state == "INVALID" or status.state == "FAILED" or is("Stalled", "True") then
  local why = is("Stalled", "True") and conditions["Stalled"] or conditions["Ready"]
  return { status = "Degraded", message = why ~= nil and why.message or status.state }
end
if is("Connected", "False") then
  return { status = "Degraded", message = conditions["Connected"].message }
end
if is("Ready", "True") then
  return { status = "Healthy", message = conditions["Ready"].message }
end
if conditions["Ready"] ~= nil then
  health.message = conditions["Ready"].message
end
return health
