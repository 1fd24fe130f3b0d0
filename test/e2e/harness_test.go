// SPDX-License-Identifier: MPL-2.0

//go:build e2e

// Package e2e tests the built plugin inside a real Vault server, against simulated workspaces.
//
// One Vault dev server serves the whole package; every test has a mount and a workspace of its own, so the tests run in
// parallel. VAULT_BIN names the Vault binary and PLUGIN_DIR a directory with a built plugin; what is not named is found or built.
//
// The server, and so the plugin, runs with an environment and a home directory full of Databricks credentials that point to
// a trap. When all tests are through, the trap must have heard nothing and Vault's log at trace level must hold no secret.
package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

const pluginName = "vault-plugin-secrets-databricks"

// server is the Vault server that the tests of the package share. TestMain sets it before the first test.
var server *vaultServer

type vaultServer struct {
	vault     string   // the binary
	env       []string // of the process
	addr      string
	rootToken string
	pluginDir string
	logPath   string
	process   *exec.Cmd
	exited    chan struct{}
	watchdog  *exec.Cmd

	trapHits atomic.Int64

	mu       sync.Mutex
	canaries map[string]string // secret → what it is
}

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "databricks" {
		if err := actAsDatabricksCLI(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "databricks:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The developer's own Vault is none of our business, and Vault's API client would read its variables.
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "VAULT_") && name != "VAULT_BIN" {
			os.Unsetenv(name)
		}
	}
	dir, err := os.MkdirTemp("", "databricks-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	status, err := runAll(m, dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	if status == 0 {
		os.RemoveAll(dir)
	} else {
		printTail(filepath.Join(dir, "vault.log"))
	}
	os.Exit(status)
}

func runAll(m *testing.M, dir string) (status int, err error) {
	server = &vaultServer{
		rootToken: "root-of-e2e",
		pluginDir: filepath.Join(dir, "plugins"),
		logPath:   filepath.Join(dir, "vault.log"),
		canaries:  map[string]string{},
	}
	if err := server.installPlugin(); err != nil {
		return 1, err
	}
	trap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server.trapHits.Add(1)
		http.Error(w, "this is a trap", http.StatusTeapot)
	}))
	defer trap.Close()
	ambient, err := server.baitedEnvironment(filepath.Join(dir, "home"), trap.URL)
	if err != nil {
		return 1, err
	}
	vault, err := findVault()
	if err != nil {
		return 1, err
	}
	server.vault, server.env = vault, ambient
	if err := server.start(); err != nil {
		return 1, err
	}
	defer server.stop()
	if err := server.register(pluginName, pluginName); err != nil {
		return 1, err
	}

	status = m.Run()
	return status, errors.Join(server.checkTrap(), server.checkLog())
}

// installPlugin puts the plugin binary into the plugin directory: from PLUGIN_DIR, or built here. A plugin built here has
// the race detector in it if the tests do.
func (s *vaultServer) installPlugin() error {
	if err := os.MkdirAll(s.pluginDir, 0o755); err != nil {
		return err
	}
	target := filepath.Join(s.pluginDir, pluginName)
	if from := os.Getenv("PLUGIN_DIR"); from != "" {
		return copyFile(filepath.Join(from, pluginName), target)
	}
	args := []string{"build", "-buildvcs=false", "-o", target}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../../cmd/"+pluginName)...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return nil
}

// baitedEnvironment is the environment that the server runs in: every variable and file by which the Databricks SDK would
// find a host or a credential leads to the trap, and nothing of the developer's own Vault or Databricks set-up is in it.
func (s *vaultServer) baitedEnvironment(home, trap string) ([]string, error) {
	token := s.secret("dapi"+strings.Repeat("bad0", 8), "token of the ambient environment")
	secret := s.secret("dose"+strings.Repeat("bad0", 8), "client secret of the ambient environment")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	profile := "[DEFAULT]\nhost = " + trap + "\ntoken = " + token + "\nworkspace_id = 666\n"
	if err := os.WriteFile(filepath.Join(home, ".databrickscfg"), []byte(profile), 0o600); err != nil {
		return nil, err
	}
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"TMPDIR=" + os.TempDir(),
		"HOME=" + home,
		"DATABRICKS_HOST=" + trap,
		"DATABRICKS_TOKEN=" + token,
		"DATABRICKS_CLIENT_ID=00000000-0000-0000-0000-000000000bad",
		"DATABRICKS_CLIENT_SECRET=" + secret,
		"DATABRICKS_USERNAME=nobody@example.com",
		"DATABRICKS_PASSWORD=" + secret,
		"DATABRICKS_ACCOUNT_ID=00000000-0000-0000-0000-000000000acc",
		"DATABRICKS_WORKSPACE_ID=666",
		"DATABRICKS_CONFIG_FILE=" + filepath.Join(home, ".databrickscfg"),
		"DATABRICKS_CONFIG_PROFILE=DEFAULT",
		"DATABRICKS_AUTH_TYPE=basic",
		"DATABRICKS_METADATA_SERVICE_URL=" + trap,
		"DATABRICKS_DISCOVERY_URL=" + trap,
		"DATABRICKS_RATE_LIMIT=1",
		"DATABRICKS_DEBUG_HEADERS=true",
		"DATABRICKS_DEBUG_TRUNCATE_BYTES=100000",
		"ARM_TENANT_ID=00000000-0000-0000-0000-00000000000a",
		"ARM_CLIENT_ID=00000000-0000-0000-0000-00000000000b",
		"ARM_CLIENT_SECRET=" + secret,
		"ARM_USE_MSI=true",
	}, nil
}

// start runs a dev server on a free port and returns when it is unsealed and active.
func (s *vaultServer) start() error {
	var err error
	for range 3 {
		// Between finding a port and binding it another program may take it, so a failed start is tried on another port.
		if err = s.startOnce(); err == nil {
			return nil
		}
	}
	return err
}

func (s *vaultServer) startOnce() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	err = s.run("http://"+address, "-dev", "-dev-listen-address="+address, "-dev-root-token-id="+s.rootToken,
		"-dev-no-store-token", "-dev-plugin-dir="+s.pluginDir, "-dev-plugin-init=false", "-log-level=trace")
	if err != nil {
		return err
	}
	return s.awaitActive()
}

// run starts the process of a server that will listen at addr. What it says is added to the log.
func (s *vaultServer) run(addr string, args ...string) error {
	log, err := os.OpenFile(s.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.vault, append([]string{"server"}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting Vault: %w", err)
	}
	s.addr, s.process, s.exited = addr, cmd, make(chan struct{})
	go func(exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(s.exited)
	return s.watch()
}

// awaitActive waits until the server knows its root token, which it does when it is unsealed and active. The token is looked
// up rather than the health, since another server could answer on that port.
func (s *vaultServer) awaitActive() error {
	return s.await(func(client *api.Client) error {
		client.SetToken(s.rootToken)
		_, err := client.Auth().Token().LookupSelf()
		return err
	})
}

// await asks the server until it answers without an error. It stops one that doesn't.
func (s *vaultServer) await(ask func(*api.Client) error) error {
	client, err := s.client("")
	if err != nil {
		return err
	}
	deadline := time.After(90 * time.Second)
	for {
		if err = ask(client); err == nil {
			return nil
		}
		select {
		case <-s.exited:
			s.stop()
			return errors.New("Vault ended while it started; its log follows")
		case <-deadline:
			s.stop()
			return fmt.Errorf("Vault did not become ready in 90 s; its log follows: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// watch starts a process that ends Vault when this one is gone, however it went: a panic or a time-out of the tests runs
// no deferred call, but it closes the pipe that the watchdog reads.
func (s *vaultServer) watch() error {
	s.watchdog = exec.Command("sh", "-c", `cat >/dev/null; kill "$1"`, "sh", strconv.Itoa(s.process.Process.Pid))
	if _, err := s.watchdog.StdinPipe(); err != nil {
		return err
	}
	return s.watchdog.Start()
}

func (s *vaultServer) stop() {
	_ = s.watchdog.Process.Kill()
	_ = s.watchdog.Wait()
	_ = s.process.Process.Signal(os.Interrupt)
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		_ = s.process.Process.Kill()
		<-s.exited
	}
}

// client returns an API client that asks once: what a test sees is the server's first answer.
func (s *vaultServer) client(token string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address = s.addr
	config.MaxRetries = 0
	config.Timeout = 2 * time.Minute
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.SetToken(token)
	return client, nil
}

// register puts a file of the plugin directory into Vault's catalogue, with variables of the form NAME=value.
func (s *vaultServer) register(plugin, file string, env ...string) error {
	sum, err := sha256File(filepath.Join(s.pluginDir, file))
	if err != nil {
		return err
	}
	client, err := s.client(s.rootToken)
	if err != nil {
		return err
	}
	_, err = client.Sys().RegisterPluginDetailed(&api.RegisterPluginInput{
		Name: plugin, Type: api.PluginTypeSecrets, Command: file, SHA256: sum, Env: env,
	})
	return err
}

// secret notes a text that must never be seen in Vault's log, and gives it back.
func (s *vaultServer) secret(text, what string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.canaries[text] = what
	return text
}

func (s *vaultServer) checkTrap() error {
	if n := s.trapHits.Load(); n > 0 {
		return fmt.Errorf("FAIL: the plugin sent %d requests to the host that only the ambient environment names", n)
	}
	return nil
}

// anySecret matches every text in the form of a Databricks personal access token, OAuth secret or OAuth access token.
var anySecret = regexp.MustCompile(`dapi[0-9a-f]{32}|dose[0-9a-zA-Z]{16,}|eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]+`)

// checkLog searches the whole trace log of Vault and the plugin for secrets and for reports of the race detector.
func (s *vaultServer) checkLog() error {
	log, err := os.ReadFile(s.logPath)
	if err != nil {
		return err
	}
	if !bytes.Contains(log, []byte("[TRACE]")) || !bytes.Contains(log, []byte(pluginName)) {
		return errors.New("FAIL: Vault's log has no trace lines or no line of the plugin, so that a search of it proves nothing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []error
	for secret, what := range s.canaries {
		if bytes.Contains(log, []byte(secret)) {
			found = append(found, fmt.Errorf("FAIL: Vault's trace log holds a secret: %s", what))
		}
	}
	for _, line := range bytes.Split(log, []byte("\n")) {
		if match := anySecret.Find(line); match != nil {
			found = append(found, fmt.Errorf("FAIL: Vault's trace log holds something like a secret: %s… in %.160q", match[:8], line))
		}
	}
	if bytes.Contains(log, []byte("WARNING: DATA RACE")) {
		found = append(found, errors.New("FAIL: the race detector has reported a race inside the plugin; see Vault's log"))
	}
	if bytes.Contains(log, []byte("panic: ")) {
		found = append(found, errors.New("FAIL: Vault's log holds a panic"))
	}
	return errors.Join(found...)
}

func findVault() (string, error) {
	find := exec.Command("../../scripts/find-vault.sh")
	find.Stderr = os.Stderr
	out, err := find.Output()
	if err != nil {
		return "", fmt.Errorf("no Vault to test with: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// freePort finds a port that is free together with the next one, which Vault takes for its cluster.
func freePort() (int, error) {
	for range 50 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := first.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)))
		first.Close()
		if err == nil {
			second.Close()
			return port, nil
		}
	}
	return 0, errors.New("no two neighbouring ports are free")
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

func sha256File(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:]), nil
}

// printTail shows the end of Vault's log, without the trace lines that would drown it, and says where all of it is.
func printTail(path string) {
	log, err := os.ReadFile(path)
	if err != nil {
		return
	}
	var lines []string
	for line := range strings.Lines(string(log)) {
		if !strings.Contains(line, "[TRACE]") {
			lines = append(lines, line)
		}
	}
	if len(lines) > 60 {
		lines = lines[len(lines)-60:]
	}
	fmt.Fprintf(os.Stderr, "e2e: the end of Vault's log (all of it is in %s):\n%s", path, strings.Join(lines, ""))
}
