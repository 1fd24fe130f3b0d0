// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/test/examples"
)

// TestTerraformExampleOnTheAPI does what Terraform does with examples/terraform/engine, without Terraform: it writes each resource, reads
// each back, and deletes them in the reverse order.
func TestTerraformExampleOnTheAPI(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.workspace.AddGroup("engineers")
	sp := m.workspace.AddServicePrincipal("ci", false)
	m.workspace.SetTokenPermission(sp, true)
	requests, err := examples.ReadFile("../../examples/terraform/engine/main.tf")
	require.NoError(t, err)
	requests = slices.DeleteFunc(requests, func(r examples.Request) bool { return r.Rule })
	variables := data{"host": m.workspace.URL(), "token": m.token, "application_id": sp.ApplicationID}
	below := func(r examples.Request) string { return strings.TrimPrefix(r.Path, "databricks/") }
	for i, r := range requests {
		require.EqualValues(t, logical.UpdateOperation, r.Operation)
		for name, value := range r.Data {
			if _, unknown := value.(examples.Unknown); unknown {
				requests[i].Data[name] = variables[name]
			}
		}
		m.write(below(r), r.Data)
	}
	for _, r := range requests {
		answer := m.read(below(r))
		for name, value := range r.Data {
			if name != "token" {
				written, err := json.Marshal(value)
				require.NoError(t, err)
				read, err := json.Marshal(answer[name])
				require.NoError(t, err)
				require.JSONEq(t, string(written), string(read), "a second plan would show a change of %s in %s", name, r.Path)
			}
		}
	}
	m.write("config", data{"host": m.workspace.URL(), "max_ttl": 86400}) // the second apply, without the token

	require.True(t, m.works(tokenOf(m.mint("etl"))))
	require.True(t, m.works(tokenOf(m.mint("ci"))))
	for _, r := range slices.Backward(requests) {
		if below(r) != "scopes/team-a" {
			m.delete(below(r))
		}
	}
	require.Len(t, m.minted(), 2, "the leases are live")
	require.NoError(t, m.client.Sys().Unmount(m.path))
	require.Empty(t, m.minted(), "and revoked, though the config was deleted first")
	require.Equal(t, "team-a", m.scope("team-a").Name)
	require.Empty(t, m.permission("team-a", "engineers"))
}

// terraform runs the examples with the real Terraform and the real providers.
type terraform struct {
	*mount
	dir         string
	environment []string
	variables   []string
}

// newTerraform skips the test, and says what is missing, unless terraform is there and TF_PROVIDER_<NAME> is the binary of each provider.
func newTerraform(t *testing.T, providers ...string) *terraform {
	t.Helper()
	binary, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("SKIPPED: examples/terraform was not run: there is no terraform in PATH")
	}
	dir := t.TempDir()
	var overrides strings.Builder
	for _, source := range providers {
		name := filepath.Base(source)
		variable := "TF_PROVIDER_" + strings.ToUpper(name)
		provider := os.Getenv(variable)
		if provider == "" {
			t.Skipf("SKIPPED: examples/terraform was not run: set %s=<path of a terraform-provider-%s binary>", variable, name)
		}
		folder := filepath.Join(dir, "providers", name)
		require.NoError(t, os.MkdirAll(folder, 0o700))
		require.NoError(t, os.Symlink(provider, filepath.Join(folder, "terraform-provider-"+name)))
		fmt.Fprintf(&overrides, "    %q = %q\n", source, folder)
	}
	config := filepath.Join(dir, "terraformrc")
	require.NoError(t, os.WriteFile(config, []byte("provider_installation {\n  dev_overrides {\n"+overrides.String()+"  }\n}\n"), 0o600))

	m := newMount(t)
	m.workspace.AddGroup("engineers")
	sp := m.workspace.AddServicePrincipal("ci", false)
	m.workspace.SetTokenPermission(sp, true)
	tf := &terraform{
		mount: m, dir: dir,
		environment: []string{"HOME=" + dir, "PATH=" + filepath.Dir(binary) + string(os.PathListSeparator) + os.Getenv("PATH"), "TF_CLI_CONFIG_FILE=" + config, "CHECKPOINT_DISABLE=1", "VAULT_ADDR=" + m.server.addr, "VAULT_TOKEN=" + m.server.rootToken},
		variables:   []string{"-var=databricks_host=" + m.workspace.URL(), "-var=application_id=" + sp.ApplicationID},
	}
	path := tf.mountPath()
	asHere := strings.NewReplacer(`path "databricks/`, `path "`+path+`/`, `path = "databricks/`, `path = "`+path+`/`, `path = "databricks"`, `path = "`+path+`"`, `name   = "databricks-`, `name   = "`+path+`-`)
	for _, folder := range []string{"policies", "terraform/engine", "terraform/workspace"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "examples", folder), 0o700))
		files, err := fs.Glob(os.DirFS("../../examples/"+folder), "*")
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join("../../examples", folder, file))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "examples", folder, file), []byte(asHere.Replace(string(text))), 0o600))
		}
	}
	t.Cleanup(func() { _ = m.client.Sys().Unmount(path) })
	return tf
}

// mountPath is where Terraform mounts the engine.
func (tf *terraform) mountPath() string { return tf.path + "-made" }

// run runs terraform in a module of the example, and returns what it said and its exit status.
func (tf *terraform) run(module string, arguments ...string) (string, int) {
	tf.t.Helper()
	cmd := exec.Command("terraform", append([]string{"-chdir=" + filepath.Join(tf.dir, "examples/terraform", module)}, arguments...)...)
	cmd.Env = tf.environment
	out, _ := cmd.CombinedOutput()
	require.NotNil(tf.t, cmd.ProcessState, "terraform did not start")
	return strings.Join(strings.Fields(string(out)), " "), cmd.ProcessState.ExitCode()
}

// must is run for what has to succeed.
func (tf *terraform) must(module string, arguments ...string) string {
	tf.t.Helper()
	out, status := tf.run(module, append(arguments, "-no-color")...)
	require.Zero(tf.t, status, out)
	return out
}

func TestTerraformExampleWithTheRealProvider(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t, "hashicorp/vault")
	made := *tf.mount
	made.path = tf.mountPath()
	withToken := append([]string{"-var=databricks_token=" + tf.token}, tf.variables...)
	auto := []string{"apply", "-auto-approve", "-input=false"}

	tf.must("engine", append(auto, withToken...)...)
	tf.must("engine", append([]string{"plan", "-detailed-exitcode", "-input=false"}, withToken...)...) // 2 if there are changes
	tf.must("engine", append(auto, tf.variables...)...)
	tf.must("engine", append([]string{"plan", "-detailed-exitcode", "-input=false"}, tf.variables...)...)
	state, err := os.ReadFile(filepath.Join(tf.dir, "examples/terraform/engine/terraform.tfstate"))
	require.NoError(t, err)
	require.NotContains(t, string(state), tf.token, "the second apply removes the token from the state")
	require.Equal(t, "READ", tf.permission("team-a", "engineers"))

	require.True(t, tf.works(tokenOf(made.mint("etl"))))
	leased := made.write("secrets/team-a/leased", data{"string_value": "leased-while-terraform-destroys", "ttl": "1h"})
	destroy := append([]string{"destroy", "-auto-approve", "-input=false", "-no-color"}, tf.variables...)
	out, status := tf.run("engine", destroy...)
	require.NotZero(t, status, out)
	require.Contains(t, out, "1 leased secret")
	made.revoke(leased)
	tf.must("engine", destroy...)
	require.Empty(t, tf.minted(), "the token that was leased is revoked")
	require.Equal(t, "team-a", tf.scope("team-a").Name, "the scope is left")
}

func TestTerraformUsesAnEphemeralCredential(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t, "hashicorp/vault", "databricks/databricks")
	made := *tf.mount
	made.path = tf.mountPath()
	tf.must("engine", append([]string{"apply", "-auto-approve", "-input=false", "-var=databricks_token=" + tf.token}, tf.variables...)...)
	before := len(tf.minted())
	tf.must("workspace", "apply", "-auto-approve", "-input=false")
	lived := tf.minted()[before:]
	require.Len(t, lived, 2, "one for the plan and one for the apply, which Terraform does not revoke")
	state, err := os.ReadFile(filepath.Join(tf.dir, "examples/terraform/workspace/terraform.tfstate"))
	require.NoError(t, err)
	require.NotRegexp(t, anySecret, string(state))
	for _, lease := range made.keysOf("sys/leases/lookup/" + made.path + "/creds/ci") {
		require.NoError(t, made.client.Sys().Revoke(made.path+"/creds/ci/"+lease))
	}
}

// keysOf lists a path of Vault itself.
func (m *mount) keysOf(path string) []string {
	m.t.Helper()
	secret, err := m.client.Logical().List(path)
	require.NoError(m.t, err)
	require.NotNil(m.t, secret, path)
	var keys []string
	for _, key := range secret.Data["keys"].([]any) {
		keys = append(keys, key.(string))
	}
	return keys
}
