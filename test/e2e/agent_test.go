// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// poll is how often a test looks whether something has happened.
const poll = 50 * time.Millisecond

// agent is a real Vault Agent that runs a configuration of examples/vault-agent, with the paths, times and addresses of a test.
type agent struct {
	*mount
	dir     string // has what is in /etc/vault-agent and /run/databricks elsewhere
	process *exec.Cmd
	log     string
}

// newAgent types the commands of a section of docs/agent.md, the last of which starts Agent. Before that, prepare may put what the configuration
// needs into the agent's dir. times are pairs of what the page says and what the test has instead.
func newAgent(t *testing.T, m *mount, section string, prepare func(a *agent), times ...string) *agent {
	t.Helper()
	a := &agent{mount: m, dir: t.TempDir()}
	a.log = filepath.Join(a.dir, "agent.log")
	approle, kv := m.path+"-approle", m.path+"-kv"
	asHere := strings.NewReplacer(append(times,
		"databricks/creds/", m.path+"/creds/", "databricks/static-creds/", m.path+"/static-creds/", "databricks/secrets/", m.path+"/secrets/",
		"databricks/roles/", m.path+"/roles/", "databricks/static-roles/", m.path+"/static-roles/", "databricks/scopes/", m.path+"/scopes/",
		`"databricks-$name"`, `"`+m.path+`-$name"`, "databricks-$name", m.path+"-$name",
		"kv/data/", kv+"/data/", "-path=kv ", "-path="+kv+" ", "-mount=kv ", "-mount="+kv+" ",
		"enable approle", "enable -path="+approle+" approle", "auth/approle/", "auth/"+approle+"/", `method "approle" {`, `method "approle" {
			mount_path = "auth/`+approle+`"`,
		"https://vault.example.com:8200", m.server.addr, "/etc/vault-agent/", a.dir+"/", "/run/databricks/", a.dir+"/", "/usr/local/bin/", a.dir+"/programs/",
		"systemctl try-restart etl.service", "date >>"+a.dir+"/reloaded",
	)...)
	a.copyExamples(asHere)
	bin := filepath.Join(a.dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(a.dir, "programs"), 0o700))
	require.NoError(t, os.Symlink(m.server.vault, filepath.Join(bin, "vault")))
	environment := []string{"HOME=" + a.dir, "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH")}
	if prepare != nil {
		prepare(a)
	}

	manual, err := os.ReadFile("../../docs/agent.md")
	require.NoError(t, err)
	var commands []string
	for _, heading := range []string{"Log in", section} {
		_, text, found := strings.Cut(string(manual), "\n## "+heading+"\n")
		require.True(t, found, heading)
		commands = append(commands, strings.Split("\n"+consoleBlock.FindStringSubmatch(text)[1], "\n$ ")[1:]...)
	}
	for _, mounted := range []string{"auth/" + approle, "mounts/" + kv} {
		t.Cleanup(func() { _, _ = m.client.Logical().Delete("sys/" + mounted) })
	}
	last := len(commands) - 1
	for _, command := range commands[:last] {
		cmd := exec.Command("sh", "-c", asHere.Replace(command))
		cmd.Dir, cmd.Env = a.dir, append(environment, "VAULT_ADDR="+m.server.addr, "VAULT_TOKEN="+m.server.rootToken)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", command, out)
	}

	log, err := os.Create(a.log)
	require.NoError(t, err)
	defer log.Close()
	require.True(t, strings.HasPrefix(commands[last], "vault agent "), commands[last])
	a.process = exec.Command("sh", "-c", "exec "+commands[last])
	a.process.Dir, a.process.Env, a.process.Stdout, a.process.Stderr = a.dir, environment, log, log
	require.NoError(t, a.process.Start())
	t.Cleanup(func() {
		a.stop()
		said := a.text("agent.log")
		if t.Failed() {
			t.Logf("Vault Agent said:\n%s", said)
		}
		require.NotRegexp(t, anySecret, said)
	})
	return a
}

// copyExamples puts a copy of the examples into the agent's dir, with the names of the test.
func (a *agent) copyExamples(asHere *strings.Replacer) {
	a.t.Helper()
	for _, folder := range []string{"policies", "vault-agent"} {
		require.NoError(a.t, filepath.WalkDir("../../examples/"+folder, func(path string, entry fs.DirEntry, err error) error {
			require.NoError(a.t, err)
			if entry.IsDir() {
				return os.MkdirAll(filepath.Join(a.dir, "examples", folder), 0o700)
			}
			text, err := os.ReadFile(path)
			require.NoError(a.t, err)
			return os.WriteFile(filepath.Join(a.dir, "examples", folder, entry.Name()), []byte(asHere.Replace(string(text))), 0o700)
		}))
	}
}

// stop ends Agent as an operator does, and waits for it.
func (a *agent) stop() {
	if a.process.ProcessState == nil {
		_ = a.process.Process.Signal(syscall.SIGTERM)
		_ = a.process.Wait()
	}
}

// text returns a file of the agent's dir, "" if there is none.
func (a *agent) text(name string) string {
	text, _ := os.ReadFile(filepath.Join(a.dir, name))
	return string(text)
}

// eventually waits for what Agent does in its own time.
func (a *agent) eventually(is func() bool, what string) {
	a.t.Helper()
	require.Eventually(a.t, is, patience, poll, what)
}

// variable returns the value of a variable in a text of lines NAME=value.
func variable(text, name string) string {
	if match := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(text); match != nil {
		return match[1]
	}
	return ""
}

// nextToken waits for an env file that has a token other than the one given, and returns it.
func (a *agent) nextToken(file, other string) string {
	a.t.Helper()
	var token string
	a.eventually(func() bool {
		token = variable(a.text(file), "DATABRICKS_TOKEN")
		return token != "" && token != other
	}, "Agent writes a token")
	require.Equal(a.t, a.workspace.URL(), variable(a.text(file), "DATABRICKS_HOST"))
	info, err := os.Stat(filepath.Join(a.dir, file))
	require.NoError(a.t, err)
	require.Equal(a.t, fs.FileMode(0o600), info.Mode().Perm())
	return server.secret(token, "a token that Agent wrote")
}

// shortLives are the times of the pages' roles, and those that a test can wait for.
var shortLives = []string{"ttl=15m max_ttl=1h", "ttl=4s max_ttl=10s", "token_period=1h", "token_period=20s"}

func TestAgentKeepsATokenInAFile(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	a := newAgent(t, m, "A token in a file", nil, shortLives...)
	first := a.nextToken("databricks.env", "")
	require.True(t, m.works(first))
	second := a.nextToken("databricks.env", first)
	require.True(t, m.works(second))
	a.eventually(func() bool { return strings.Count(a.text("reloaded"), "\n") >= 2 }, "the command runs after each token")
	a.eventually(func() bool { return !m.works(first) }, "the lease of the first has ended")
	require.Equal(t, "600 "+a.dir+"/etl/role-id\n600 "+a.dir+"/etl/secret-id\n", a.modes("etl/role-id", "etl/secret-id"))

	a.stop()
	a.eventually(func() bool { return len(m.minted()) == 0 }, "without Agent, its token ends, and what it has leased")
}

// modes returns a line "<octal mode> <path>" for each file of the agent's dir.
func (a *agent) modes(names ...string) string {
	var lines strings.Builder
	for _, name := range names {
		out, err := exec.Command("stat", "-c", "%a %n", filepath.Join(a.dir, name)).Output()
		require.NoError(a.t, err)
		lines.Write(out)
	}
	return lines.String()
}

func TestAgentRestartsAProcessWithTheNextToken(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	const program = `#!/bin/sh
cd "$(dirname "$0")/.."
echo "start $$ $DATABRICKS_HOST $DATABRICKS_TOKEN" >>ran
trap 'echo "stop $$" >>ran; exit 0' TERM
while :; do sleep 0.1; done
`
	a := newAgent(t, m, "A process", func(a *agent) {
		require.NoError(t, os.WriteFile(filepath.Join(a.dir, "programs", "etl"), []byte(program), 0o700))
	}, shortLives...)
	line := regexp.MustCompile(`(?m)^start (\d+) (\S+) (\S+)$`)
	starts := func(n int) [][]string {
		a.eventually(func() bool { return len(line.FindAllString(a.text("ran"), -1)) >= n }, "the process runs")
		return line.FindAllStringSubmatch(a.text("ran"), -1)
	}
	first := starts(1)[0]
	require.Equal(t, m.workspace.URL(), first[2])
	require.True(t, m.works(server.secret(first[3], "a token in an environment")))
	require.Equal(t, 1, m.workspace.Count("POST", "/api/2.0/token/create"), "both variables are of one token")

	second := starts(2)[1]
	require.NotEqual(t, first[1], second[1], "another process")
	require.NotEqual(t, first[3], second[3], "another token")
	require.True(t, m.works(server.secret(second[3], "a token in an environment")))
	require.Less(t, strings.Index(a.text("ran"), "stop "+first[1]), strings.Index(a.text("ran"), "start "+second[1]), "the first had ended before")
	a.stop()
	a.eventually(func() bool { return strings.Contains(a.text("ran"), "stop "+second[1]) || len(starts(2)) > 2 }, "the process ends with Agent")
	require.NotContains(t, a.text("agent.log"), second[3])
}

func TestAgentFollowsAStaticCredential(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	a := newAgent(t, m, "A static credential", nil, "rotation_period=24h rotation_grace_period=1h", "rotation_period=60s rotation_grace_period=10m")
	first := a.nextToken("dash.env", "")
	require.Equal(t, m.creds("dash").secret, first)
	var second string
	require.Eventually(t, func() bool {
		second = variable(a.text("dash.env"), "DATABRICKS_TOKEN")
		return second != "" && second != first
	}, oneRotation, poll, "Agent reads again after the rotation")
	require.True(t, m.works(server.secret(second, "a static credential")))
	require.True(t, m.works(first), "in its grace period")
}

func TestAgentMakesAScopeFollowKV(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	a := newAgent(t, m, "A scope that follows KV", nil, `static_secret_render_interval = "1m"`, `static_secret_render_interval = "1s"`)
	follows := func(want map[string]any) {
		t.Helper()
		var has map[string]any
		require.Eventually(t, func() bool { has = m.stored("team-a"); return len(has) == len(want) && contains(has, want) }, patience, poll, "the scope has what KV has")
	}
	put := func(values map[string]any) {
		_, err := m.client.KVv2(m.path+"-kv").Put(t.Context(), "team-a", values)
		require.NoError(t, err)
	}
	follows(data{"user": "etl", "password": "s3cr3t"})
	require.Equal(t, "600 "+a.dir+"/team-a.json\n600 "+a.dir+"/vault-token\n", a.modes("team-a.json", "vault-token"))

	changed := server.secret(`"quoted" <changed> & new`+"\n", "a changed value of KV")
	put(data{"password": changed, "added/key": server.secret("an added value of KV", "an added value")})
	follows(data{"password": changed, "added/key": "an added value of KV"})

	failed := m.workspace.Inject(simulator.Fault{Path: "/api/2.0/secrets/put", Times: 2, Status: 403, ErrorCode: "PERMISSION_DENIED"})
	put(data{"password": changed})
	follows(data{"password": changed})
	require.Equal(t, 2, failed.Hits(), "what fails is repeated, though nothing changes in KV")

	require.NoError(t, m.client.KVv2(m.path+"-kv").Delete(t.Context(), "team-a"))
	a.eventually(func() bool { return strings.Contains(a.text("agent.log"), "no secret exists at "+m.path+"-kv") }, "Agent sees no secret")
	follows(data{"password": changed})
}

// contains reports whether all of want is in has.
func contains(has, want map[string]any) bool {
	for key, value := range want {
		if has[key] != value {
			return false
		}
	}
	return true
}
