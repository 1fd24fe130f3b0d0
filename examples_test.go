// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/test/examples"
)

// elsewhere are the paths of Vault that examples may use besides the engine's.
var elsewhere = []string{"auth/", "kv/", "sys/leases/"}

// exampleChecker holds requests of examples against the engine's own schema.
type exampleChecker struct {
	backend *backend
	types   map[string]string // of the roles and static roles that examples write: "roles/etl" → credential_type
}

// newExampleChecker learns the types of roles from all requests. One name is one type in all examples.
func newExampleChecker(t *testing.T, requests []examples.Request) *exampleChecker {
	t.Helper()
	c := &exampleChecker{backend: newMount(t).backend.(*backend), types: make(map[string]string)}
	for _, r := range requests {
		kind, ok := r.Data[keyCredentialType].(string)
		path := strings.TrimPrefix(r.Path, "databricks/")
		if !ok || r.Operation != logical.UpdateOperation {
			continue
		}
		if other := c.types[path]; other != "" {
			require.Equal(t, other, kind, "%s: %s has another credential_type elsewhere", r.File, path)
		}
		c.types[path] = kind
	}
	return c
}

// wildcard matches what stands for a part of a path: a plus sign or a final star of a policy, and a variable.
var wildcard = regexp.MustCompile(`\+|\*$|\$`)

// check returns an error if the engine has no such path or operation, or the path no such parameter, value or field in its answer.
func (c *exampleChecker) check(r examples.Request) error {
	below, ours := strings.CutPrefix(r.Path, "databricks/")
	if !ours {
		if slices.ContainsFunc(elsewhere, func(prefix string) bool { return strings.HasPrefix(r.Path+"/", prefix) }) {
			return nil
		}
		return fmt.Errorf("%s is not a path of the engine", r.Path)
	}
	if r.Operation == examples.RevokeLease {
		return c.checkLeases(below)
	}
	sample := wildcard.ReplaceAllString(below, strings.Repeat("a", 64)) // which is a token id, too
	if r.Operation == logical.ListOperation {
		sample += "/"
	}
	path := c.backend.Route(sample)
	if path == nil {
		return fmt.Errorf("%s: the engine has no such path", r.Path)
	}
	handler := path.Operations[r.Operation]
	if handler == nil {
		return fmt.Errorf("%s can't be used for %s", r.Path, r.Operation)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Data)) {
		if err := c.checkParameter(r.Operation, sample, path, name, r.Data[name]); err != nil {
			return fmt.Errorf("%s: %w", r.Path, err)
		}
	}
	fields := handler.Properties().Responses[200][0].Fields
	if kind, name, _ := strings.Cut(below, "/"); kind == "creds" || kind == "static-creds" {
		of := map[string]string{"creds": "roles/", "static-creds": "static-roles/"}[kind] + name
		if c.types[of] == "" && strings.HasPrefix(r.File, "examples/policies/") {
			return nil // it is for any role of that name, and its answers are not used
		}
		if c.types[of] == "" {
			return fmt.Errorf("%s: no example says which credential_type %s has", r.Path, of)
		}
		all := fields
		fields = credentialFields([]string{c.types[of]})
		for name, schema := range all {
			if _, differs := credential.AnswerFields(credential.Names(nil))[name]; !differs {
				fields[name] = schema // of every type
			}
		}
	}
	return checkAnswer(r, fields)
}

// checkAnswer returns an error if an answer has no field that is used, or one of another type.
func checkAnswer(r examples.Request, fields map[string]*framework.FieldSchema) error {
	for _, name := range slices.Concat(r.Answer, r.Strings, r.Numbers) {
		schema := fields[name]
		switch {
		case schema == nil:
			return fmt.Errorf("%s: the answer has no field %s", r.Path, name)
		case slices.Contains(r.Strings, name) && schema.Type != framework.TypeString,
			slices.Contains(r.Numbers, name) && schema.Type != framework.TypeInt64:
			return fmt.Errorf("%s: %s of the answer has another type", r.Path, name)
		}
	}
	return nil
}

// checkParameter returns an error if a path has no such parameter, or a value is none that it can have. A list of values is that of a policy.
func (c *exampleChecker) checkParameter(operation logical.Operation, sample string, path *framework.Path, name string, value any) error {
	schema := path.Fields[name]
	if schema == nil || slices.Contains(regexp.MustCompile(path.Pattern).SubexpNames(), name) {
		return fmt.Errorf("there is no parameter %s", name)
	}
	values := []any{value}
	if list, ok := value.([]any); ok && schema.Type != framework.TypeCommaStringSlice {
		values = list
	}
	for _, value := range values {
		if _, unknown := value.(examples.Unknown); unknown {
			continue
		}
		// What the CLI sends as text is a number or a boolean all the same.
		if err := c.backend.checkTypes(&logical.Request{Operation: operation, Path: sample, Data: map[string]any{name: value}}); err != nil {
			return err
		}
		if len(schema.AllowedValues) > 0 && !slices.Contains(schema.AllowedValues, value) {
			return fmt.Errorf("%s can't be %v", name, value)
		}
		if object, ok := value.(map[string]any); ok {
			for key, element := range object {
				if _, ok := element.(string); !ok {
					return fmt.Errorf("%s: %s is not a string", name, key)
				}
			}
		}
	}
	return nil
}

// checkLeases checks the path of a rule that lets leases be revoked: one that makes leases, which the id of a lease may follow.
func (c *exampleChecker) checkLeases(below string) error {
	sample := wildcard.ReplaceAllString(below, "a")
	kind, _, _ := strings.Cut(sample, "/")
	if slices.Contains([]string{"creds", "secrets", "acls", "uc-secrets"}, kind) &&
		(c.backend.Route(sample) != nil || c.backend.Route(sample[:strings.LastIndexByte(sample, '/')]) != nil) {
		return nil
	}
	return fmt.Errorf("databricks/%s has no leases", below)
}

// TestExamplesFitTheEngine holds every file of examples/ against the schema of the engine.
func TestExamplesFitTheEngine(t *testing.T) {
	t.Parallel()
	requests, err := examples.Read("examples")
	require.NoError(t, err)
	c := newExampleChecker(t, requests)
	used := make(map[string]int)
	for _, r := range requests {
		require.NoError(t, c.check(r), r.File)
		used[filepath.Dir(r.File)]++
	}
	for _, folder := range []string{"ci", "kubernetes", "policies", "terraform/engine", "terraform/workspace", "vault-agent"} {
		require.NotZero(t, used["examples/"+folder], "%s asks something of the engine", folder)
	}
}

// TestExampleThatIsWrongIsFound: each of these is wrong in one place.
func TestExampleThatIsWrongIsFound(t *testing.T) {
	t.Parallel()
	all, err := examples.Read("examples")
	require.NoError(t, err)
	c := newExampleChecker(t, all)
	for _, wrong := range []struct{ file, text, says string }{
		{"p.hcl", `path "databricks/cred/etl" { capabilities = ["read"] }`, "no such path"},
		{"p.hcl", `path "databrick/creds/etl" { capabilities = ["read"] }`, "not a path of the engine"},
		{"p.hcl", `path "databricks/creds/etl" { capabilities = ["reed"] }`, "no capability"},
		{"p.hcl", `path "databricks/creds/etl" { capabilities = ["list"] }`, "no such path"},
		{"p.hcl", `path "databricks/static-creds/dash" { capabilities = ["update"] }`, "can't be used for update"},
		{"p.hcl", `path "databricks/creds/etl" { capability = ["read"] }`, "Missing required argument"},
		{"p.hcl", `path "databricks/acls/etl/*" {
			capabilities      = ["update"]
			denied_parameters = { "forced" = [] }
		}`, "no parameter forced"},
		{"p.hcl", `path "databricks/acls/etl/*" {
			capabilities       = ["update"]
			allowed_parameters = { "permission" = ["READ", "ADMIN"] }
		}`, "permission can't be ADMIN"},
		{"p.hcl", `path "databricks/secrets/etl/*" {
			capabilities        = ["update"]
			required_parameters = ["if_missing"]
		}`, "no parameter if_missing"},
		{"p.hcl", `path "sys/leases/revoke/databricks/roles/etl/*" { capabilities = ["update"] }`, "no leases"},
		{"p.hcl", `policy "x" {}`, "neither a policy"},
		{"p.hcl", `path "databricks/config" {`, "Unclosed"},
		{"a.hcl", agentWith(`{{ with secret "databricks/creds/etl" }}{{ .Data.token }}{{ end }}`), "no field token"},
		{"a.hcl", agentWith(`{{ with secret "databricks/creds/etl" }}{{ .Data.client_id }}{{ end }}`), "no field client_id"},
		{"a.hcl", agentWith(`{{ with secret "databricks/creds/elt" }}{{ .Data.token_value }}{{ end }}`), "no example says"},
		{"a.hcl", agentWith(`{{ with secret "databricks/credentials/etl" }}{{ .Data.token_value }}{{ end }}`), "no such path"},
		{"a.hcl", agentWith(`{{ with secret "databricks/creds/etl" }}{{ .Data.token_value }}`), "unexpected EOF"},
		{"a.hcl", agentWith(`{{ with secret "databricks/creds/etl" }}{{ .Date.token_value }}{{ end }}`), "field of .Data"},
		{"examples/vault-agent/a.hcl", strings.Replace(agentWith(`{"secrets": {{ with secret "kv/data/a" }}{{ .Data.data | toJSON }}{{ end }}, "purge": true}`), "x.env", "x.json", 1), "no parameter purge"},
		{"examples/vault-agent/a.hcl", strings.Replace(agentWith(`{"secrets": "{{ with secret "kv/data/a" }}{{ .Data.data | toJSON }}{{ end }}"}`), "x.env", "x.json", 1), "renders no JSON"},
		{"s.hcl", `plugin "secret" "databricks" { sha256 = "" }`, "sha256 is not known"},
		{"s.hcl", `plugin "secret" "databricks" { sha256sum = "0000" }`, "no SHA-256"},
		{"m.tf", endpoint("role/etl", `{ credential_type = "pat" }`), "no such path"},
		{"m.tf", endpoint("roles/etl", `{ credential_type = "pta" }`), "credential_type can't be pta"},
		{"m.tf", endpoint("roles/etl", `{ credential_type = "pat", max-ttl = 5 }`), "no parameter max-ttl"},
		{"m.tf", endpoint("roles/etl", `{ credential_type = "pat", ttl = 1.5 }`), "ttl: "},
		{"m.tf", endpoint("static-roles/dash", `{ credential_type = "oauth_token" }`), "credential_type can't be oauth_token"},
		{"m.tf", endpoint("config", `{ host = "https://x", verify_connection = "yes" }`), "verify_connection: "},
		{"m.tf", endpoint("roles/etl", `{ name = "etl" }`), "no parameter name"},
		{"m.tf", strings.Replace(endpoint("config", `{}`), "data_json", "data", 1), "no data that is known"},
		{"m.tf", `ephemeral "vault_generic_secret" "d" { path = "databricks/creds/ci" }
			provider "databricks" { token = ephemeral.vault_generic_secret.d.data["token"] }`, "no field token"},
		{"r.sh", "#!/bin/sh\nvault read databricks/cred/etl", "no such path"},
		{"r.sh", "#!/bin/sh\nvault write databricks/roles/etl credential_type=pat max_tll=1h", "no parameter max_tll"},
		{"r.sh", "#!/bin/sh\nvault write databricks/roles/etl credential_type=pat ttl=soon", "ttl: "},
		{"r.sh", "#!/bin/sh\nT=$(vault read -field=token databricks/creds/etl)", "no field token"},
		{"r.sh", "#!/bin/sh\nvault write databricks/secrets/etl - <<'JSON'\n{\"secrets\": {\"a\": 1}}\nJSON\n", "not a string"},
		{"r.sh", "#!/bin/sh\nvault raed databricks/creds/etl", "no command vault raed"},
		{"r.sh", "#!/bin/sh\nif true; then", "bash"},
		{"r.sh", "vault read databricks/creds/etl", "no interpreter"},
		{"r.sh", "#!/bin/sh\nvault write databricks/secrets/etl - < file", "something else than a here-document"},
		{"r.sh", "#!/bin/sh\nvault write databricks/secrets/etl - <<'JSON'\n{\nJSON\n", "unexpected end of JSON"},
		{"r.sh", "#!/bin/bash\nm=$(vault read -format=json databricks/creds/etl)\njq .data.tokens <<<\"$m\"", "no field tokens"},
		{"README.md", "```console\n$ vault delete databricks/creds/etl\n```\n", "can't be used for delete"},
		{"k.yaml", operator("creds/elt", ""), "no example says"},
		{"k.yaml", operator("credz/etl", ""), "no such path"},
		{"k.yaml", operator("creds/etl", "  renewPercent: 5\n"), "renewPercent not found"},
		{"k.yaml", operator("static-creds/dash", ""), "allowStaticCreds"},
		{"k.yaml", operator("creds/etl", "  params: {tll: 5m}\n"), "no parameter tll"},
		{"k.yaml", strings.Replace(operator("creds/etl", ""), "VaultDynamicSecret", "VaultDynamicSecrets", 1), "is not known"},
		{"k.yaml", "a: [", "did not find"},
		{"w.yaml", action("databricks/creds/ci token | T"), "no field token"},
		{"w.yaml", action("databricks/cred/ci token_value | T"), "no such path"},
		{"w.yaml", action("databricks/creds/ci token_value"), "is not <path>"},
		{"g.yaml", "deploy:\n  scripts: [vault read databricks/creds/ci]\n", "scripts not found"},
		{"g.yaml", "deploy:\n  script: [vault read databricks/cred/ci]\n", "no such path"},
		{"b.yml", "bundle: {name: etl, host: x}\n", "host not found"},
		{"x.toml", "", "no test knows"},
	} {
		requests, err := examples.Parse(wrong.file, []byte(wrong.text))
		for _, r := range requests {
			if err == nil {
				err = c.check(r)
			}
		}
		if err == nil || !strings.Contains(err.Error(), wrong.says) {
			t.Errorf("%s\n%v\nshould be: %s", wrong.text, err, wrong.says)
		}
	}
}

// agentWith is a configuration of Vault Agent with one template.
func agentWith(contents string) string {
	return fmt.Sprintf("auto_auth {}\ntemplate {\n  destination = \"x.env\"\n  contents = <<EOT\n%s\nEOT\n  exec {\n    command = [\"push.sh\"]\n  }\n}\n", contents)
}

// endpoint is a Terraform module with one resource below a mount.
func endpoint(path, data string) string {
	return fmt.Sprintf(`resource "vault_mount" "m" { path = "databricks" }
		resource "vault_generic_endpoint" "x" {
			path      = "${vault_mount.m.path}/%s"
			data_json = jsonencode(%s)
		}`, path, data)
}

// operator is an object of the Vault Secrets Operator.
func operator(path, more string) string {
	return "apiVersion: secrets.hashicorp.com/v1beta1\nkind: VaultDynamicSecret\nspec:\n  mount: databricks\n  renewalPercent: 67\n  path: " + path + "\n  destination: {name: x}\n" + more
}

// action is a workflow of GitHub with one secret.
func action(secrets string) string {
	return "jobs:\n  j:\n    steps:\n      - uses: hashicorp/vault-action@v3\n        with: {secrets: \"" + secrets + "\"}\n"
}
