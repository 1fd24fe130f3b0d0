// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestMain lets the test binary be the command, so that signals can be tested.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_DATABRICKS_SIMULATOR") != "" {
		main()
	}
	os.Exit(m.Run())
}

// output is a buffer that is read while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// banner is what the command said when it was ready.
type banner struct{ host, token, clientID, clientSecret string }

// running starts the command and waits until it is ready.
func running(t *testing.T, env func(string) string, args ...string) (said banner, out *output) {
	t.Helper()
	out = &output{}
	ctx, stop := context.WithCancel(context.Background())
	status := make(chan int, 1)
	go func() { status <- run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), env, out, out) }()
	t.Cleanup(func() {
		stop()
		require.Equal(t, exitOK, <-status)
	})
	return awaitBanner(t, out), out
}

func awaitBanner(t *testing.T, out *output) (said banner) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "\nready\n") }, 10*time.Second, time.Millisecond)
	find := func(label string) string {
		found := regexp.MustCompile(label + ` +(\S+)`).FindStringSubmatch(out.String())
		require.NotNil(t, found, label)
		return found[1]
	}
	return banner{find("host"), find("token"), find("client_id"), find("client_secret")}
}

func askWho(t *testing.T, env func(string) string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), []string{"whoami"}, env, &out, &errs)
	return status, out.String(), errs.String()
}

func TestTheBannerTellsTheTruth(t *testing.T) {
	t.Parallel()
	said, out := running(t, environment())
	require.Regexp(t, `^dapi[0-9a-f]{32}$`, said.token)
	status, stdout, _ := askWho(t, environment("DATABRICKS_HOST", said.host, "DATABRICKS_TOKEN", said.token))
	require.Equal(t, exitOK, status)
	require.Equal(t, "200 OK — admin@example.com (workspace 5206439413157315)\n", stdout)

	req, err := http.NewRequestWithContext(t.Context(), "POST", said.host+"/oidc/v1/token", strings.NewReader("grant_type=client_credentials"))
	require.NoError(t, err)
	req.SetBasicAuth(said.clientID, said.clientSecret)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)

	require.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{3} GET /api/2.0/preview/scim/v2/Me 200 admin@example.com$`, out.String())
	require.Regexp(t, `(?m) POST /oidc/v1/token 200 simulated-service-principal$`, out.String())
}

// TestThereIsWhomTheDocsName uses the ids that stand in the examples of docs/.
func TestThereIsWhomTheDocsName(t *testing.T) {
	t.Parallel()
	said, out := running(t, environment())
	get := func(path string) string {
		req, err := http.NewRequestWithContext(t.Context(), "GET", said.host+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+said.token)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode, path)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(body)
	}
	require.Contains(t, get("/api/2.0/preview/scim/v2/ServicePrincipals/4180639275618001"), `"6f5ccf28-d83a-4957-9bfb-5bbfac551410"`)
	users, groups := get("/api/2.0/preview/scim/v2/Users"), get("/api/2.0/preview/scim/v2/Groups")
	for _, name := range []string{"alice@example.com", "jane@example.com"} {
		require.Contains(t, users, `"`+name+`"`)
		require.Contains(t, groups, `"`+name+`"`)
		require.Contains(t, out.String(), name)
	}
	for _, name := range []string{"engineers", "readers", "analysts"} {
		require.Contains(t, groups, `"displayName":"`+name+`"`)
		require.Contains(t, out.String(), name)
	}
	get("/api/2.0/postgres/projects/shop/branches/production/endpoints/primary")
	get("/api/2.1/unity-catalog/secrets?catalog_name=main&schema_name=app")
	require.Contains(t, get("/simulator/"), "<title>Simulated workspace</title>")
	require.Contains(t, out.String(), "page           "+said.host+"/simulator/\n")
}

func TestRequestsAreLoggedWithoutCredentials(t *testing.T) {
	t.Parallel()
	said, out := running(t, environment())
	_, banner, _ := strings.Cut(out.String(), "ready\n")
	require.Empty(t, banner)
	for _, path := range []string{"/api/2.0/token-management/tokens/" + said.token, "/a%0Ab?token=" + said.token, "/" + said.clientSecret} {
		resp, err := http.Get(said.host + path)
		require.NoError(t, err)
		resp.Body.Close()
	}
	_, logged, _ := strings.Cut(out.String(), "ready\n")
	require.Len(t, strings.Split(strings.TrimSpace(logged), "\n"), 3)
	require.Contains(t, logged, "GET /api/2.0/token-management/tokens/dapi… 401 -\n")
	require.Contains(t, logged, "GET /a%0Ab 404 -\n")
	require.NotContains(t, logged, said.token)
	require.NotContains(t, logged, said.clientSecret)
}

func TestRequestLogOfACutConnection(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := &requestLog{out: &out}
	log.write(simulator.Call{Time: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), Method: "GET", Path: "/x"})
	require.Equal(t, "12:00:00.000 GET /x cut -\n", out.String())
}

func TestTheTokenCanBeChosen(t *testing.T) {
	t.Parallel()
	said, out := running(t, environment("DATABRICKS_SIMULATOR_TOKEN", "from-env"), "-quiet")
	require.Equal(t, "from-env", said.token)
	before := out.String()
	status, _, _ := askWho(t, environment("DATABRICKS_HOST", said.host, "DATABRICKS_TOKEN", "from-env"))
	require.Equal(t, exitOK, status)
	require.Equal(t, before, out.String()) // quiet

	said, _ = running(t, environment("DATABRICKS_SIMULATOR_TOKEN", "from-env"), "-token", "from-flag")
	require.Equal(t, "from-flag", said.token)
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{"-version", exitOK, "databricks-simulator " + version + "\n", ""},
		{"-h", exitOK, "", "Usage:"},
		{"-nonsense", exitUsage, "", "flag provided but not defined"},
		{"nonsense", exitUsage, "", `unexpected argument "nonsense"`},
		{"whoami nonsense", exitUsage, "", `unexpected argument "nonsense"`},
		{"-addr 0.0.0.0:0", exitFailed, "", "is not loopback"},
		{"-addr 127.0.0.1:0 -token=käse", exitUsage, "", "printable ASCII"},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, try.status, run(t.Context(), strings.Fields(try.args), environment(), &out, &errs), try.args)
		require.Equal(t, try.stdout, out.String())
		require.Contains(t, errs.String(), try.stderr)
	}
}

func TestSignalsStopTheCommandCleanly(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		out := &output{}
		cmd := exec.Command(os.Args[0], "-addr", "127.0.0.1:0")
		cmd.Env = append(os.Environ(), "RUN_DATABRICKS_SIMULATOR=1")
		cmd.Stdout = out
		require.NoError(t, cmd.Start())
		awaitBanner(t, out)
		require.NoError(t, cmd.Process.Signal(signal))
		require.NoError(t, cmd.Wait())
	}
}

func TestWhoamiRefusals(t *testing.T) {
	t.Parallel()
	w := simulator.New()
	t.Cleanup(w.Close)
	admin := w.AddUser("alice@example.com", true)
	token, _ := w.AddToken(admin, "", 0)
	sp := w.AddServicePrincipal("etl", false)
	spToken, _ := w.AddToken(sp, "", 0)

	status, stdout, stderr := askWho(t, environment("DATABRICKS_HOST", w.URL()+"/", "DATABRICKS_TOKEN", spToken))
	require.Equal(t, exitOK, status, stderr)
	require.Equal(t, "200 OK — "+sp.ApplicationID+", etl (workspace "+w.ID()+")\n", stdout)

	status, stdout, _ = askWho(t, environment("DATABRICKS_HOST", w.URL(), "DATABRICKS_TOKEN", "dapi0"))
	require.Equal(t, exitFailed, status)
	require.Equal(t, "403 Forbidden — Invalid access token.\n", stdout)

	for _, try := range []struct {
		fault  simulator.Fault
		stdout string
	}{
		{simulator.Fault{Status: 503, Message: "down"}, "503 Service Unavailable — TEMPORARILY_UNAVAILABLE: down\n"},
		{simulator.Fault{Status: 500, Body: "oops"}, "500 Internal Server Error — no explanation given\n"},
		{simulator.Fault{Status: 401, Body: `{"message":"who?"}`}, "401 Unauthorized — who?\n"},
		{simulator.Fault{Status: 302, Header: http.Header{"Location": {"/elsewhere"}}}, "302 Found — no explanation given\n"},
		{simulator.Fault{HTML: true}, "200 OK — but this is not the answer of a Databricks workspace\n"},
	} {
		fault := w.Inject(try.fault)
		status, stdout, _ = askWho(t, environment("DATABRICKS_HOST", w.URL(), "DATABRICKS_TOKEN", token))
		fault.Clear()
		require.Equal(t, exitFailed, status)
		require.Equal(t, try.stdout, stdout)
	}
	require.Zero(t, w.Count("", "/elsewhere"))

	w.Close()
	status, stdout, stderr = askWho(t, environment("DATABRICKS_HOST", w.URL(), "DATABRICKS_TOKEN", token))
	require.Equal(t, exitFailed, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "can't reach "+w.URL())
	require.NotContains(t, stderr, token)
}

func TestWhoamiSendsNoTokenInTheClear(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"http://example.com", "ftp://localhost", "https://", "http://[", "https://exa mple.com"} {
		status, stdout, stderr := askWho(t, environment("DATABRICKS_HOST", host, "DATABRICKS_TOKEN", "dapi0"))
		require.Equal(t, exitUsage, status, host)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "DATABRICKS_HOST")
	}
	for _, env := range []func(string) string{environment(), environment("DATABRICKS_HOST", "x"), environment("DATABRICKS_TOKEN", "x")} {
		status, _, stderr := askWho(t, env)
		require.Equal(t, exitUsage, status)
		require.Contains(t, stderr, "set DATABRICKS_HOST and DATABRICKS_TOKEN")
	}
	origin, err := originOf("adb-1.azuredatabricks.net/?o=1")
	require.NoError(t, err)
	require.Equal(t, "https://adb-1.azuredatabricks.net", origin)
	origin, err = originOf("http://localhost:1/")
	require.NoError(t, err)
	require.Equal(t, "http://localhost:1", origin)
}

func TestWhoamiToleratesAnswersWithoutAWorkspace(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"userName":"alice"}`)
	}))
	t.Cleanup(server.Close)
	status, stdout, _ := askWho(t, environment("DATABRICKS_HOST", server.URL, "DATABRICKS_TOKEN", "x"))
	require.Equal(t, exitOK, status)
	require.Equal(t, "200 OK — alice\n", stdout)
}
