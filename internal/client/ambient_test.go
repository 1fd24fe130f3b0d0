// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"context"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/databricks/databricks-sdk-go/logger"
	"github.com/stretchr/testify/require"
)

// TestNothingAmbient sets all that the SDK would look at, pointing to a trap.
func TestNothingAmbient(t *testing.T) {
	trap := newServer(t)
	home := t.TempDir()
	file := filepath.Join(home, ".databrickscfg")
	require.NoError(t, os.WriteFile(file, []byte("[DEFAULT]\nhost = "+trap.URL+"\ntoken = dapiambient\nworkspace_id = 666\n[other]\nhost = "+trap.URL+"\n"), 0o600))
	for name, value := range map[string]string{
		"HOME": home, "USERPROFILE": home,
		"DATABRICKS_HOST": trap.URL, "DATABRICKS_TOKEN": "dapiambient", "DATABRICKS_CLIENT_ID": "ambient", "DATABRICKS_CLIENT_SECRET": "ambient",
		"DATABRICKS_ACCOUNT_ID": "ambient", "DATABRICKS_WORKSPACE_ID": "666", "DATABRICKS_AUTH_TYPE": "basic",
		"DATABRICKS_USERNAME": "ambient", "DATABRICKS_PASSWORD": "ambient", "DATABRICKS_CONFIG_PROFILE": "other", "DATABRICKS_CONFIG_FILE": file,
		"DATABRICKS_METADATA_SERVICE_URL": trap.URL, "DATABRICKS_DISCOVERY_URL": trap.URL, "DATABRICKS_CLOUD": "Azure",
		"DATABRICKS_RATE_LIMIT": "1", "DATABRICKS_DEBUG_HEADERS": "true", "DATABRICKS_DEBUG_TRUNCATE_BYTES": "100000",
		"DATABRICKS_OIDC_TOKEN": "ambient", "DATABRICKS_OIDC_TOKEN_FILEPATH": file, "DATABRICKS_TOKEN_AUDIENCE": "ambient",
		"DATABRICKS_SDK_UPSTREAM": "ambient", "DATABRICKS_SDK_UPSTREAM_VERSION": "6.6.6", "DATABRICKS_RUNTIME_VERSION": "15.1",
		"DATABRICKS_GOOGLE_SERVICE_ACCOUNT": "ambient", "GOOGLE_CREDENTIALS": "{}", "DATABRICKS_AZURE_RESOURCE_ID": "/ambient",
		"ARM_CLIENT_ID": "ambient", "ARM_CLIENT_SECRET": "ambient", "ARM_TENANT_ID": "ambient", "ARM_USE_MSI": "true", "ARM_ENVIRONMENT": "CHINA",
		"GITHUB_ACTIONS": "true", "CLAUDECODE": "1", "ACTIONS_ID_TOKEN_REQUEST_URL": trap.URL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "ambient",
	} {
		t.Setenv(name, value)
	}
	for _, cfg := range []Config{patConfig(""), oauthConfig(""), azureConfig(""), oidcConfig("")} {
		var mu sync.Mutex
		var paths []string
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			paths = append(paths, r.URL.Path)
			require.Equal(t, []string{"only-this/1.0"}, r.Header["User-Agent"])
			require.Empty(t, r.Header.Get("X-Databricks-Workspace-Id"))
			switch {
			case strings.HasSuffix(r.URL.Path, "/token"):
			case cfg.AuthType == AuthPAT:
				require.Equal(t, "Bearer "+testToken, r.Header.Get("Authorization"))
			default:
				require.Equal(t, "Bearer access-token-one", r.Header.Get("Authorization"))
			}
			for name, values := range r.Header {
				require.NotContains(t, strings.Join(values, " "), "ambient", name)
			}
			healthy(w, r)
		}))
		t.Cleanup(s.Close)
		cfg.Host, cfg.UserAgent = s.URL, "only-this/1.0"
		c := newClient(t, cfg)
		require.Empty(t, paths, "New does no I/O")
		for range 3 {
			_, err := c.Me(t.Context())
			require.NoError(t, err)
			_, err = c.CreateToken(t.Context(), aMinute)
			require.NoError(t, err)
		}
		if cfg.AuthType == AuthPAT {
			require.Len(t, paths, 6)
		} else {
			require.Len(t, paths, 7)
		}
	}
	require.Zero(t, trap.requests.Load())
}

func TestWorkspaceIDIsSent(t *testing.T) {
	t.Parallel()
	var seen atomic.Value
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("X-Databricks-Workspace-Id"))
		healthy(w, r)
	})
	cfg := patConfig(s.URL)
	cfg.WorkspaceID = "900800700600"
	_, err := newClient(t, cfg).CreateToken(t.Context(), aMinute)
	require.NoError(t, err)
	require.Equal(t, "900800700600", seen.Load())
}

// TestTheSDKIsSilent uses the standard logger, which the SDK's own logger writes to.
func TestTheSDKIsSilent(t *testing.T) {
	var out bytes.Buffer
	log.SetOutput(&out)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	c := newClient(t, patConfig(newServer(t, answer(200, `{"token_value":1}`)).URL))
	_, err := c.CreateToken(t.Context(), aMinute)
	require.Error(t, err)
	_, err = c.CreateToken(t.Context(), aMinute)
	require.NoError(t, err)
	for _, level := range []logger.Level{logger.LevelTrace, logger.LevelDebug, logger.LevelInfo, logger.LevelWarn, logger.LevelError} {
		require.False(t, logger.Get(t.Context()).Enabled(t.Context(), level))
	}
	for _, say := range []func(context.Context, string, ...any){logger.Tracef, logger.Debugf, logger.Infof, logger.Warnf, logger.Errorf} {
		say(t.Context(), "%s", testToken)
	}
	require.Empty(t, out.String())
}

// TestProxyFromTheEnvironment runs itself in a process of its own, since the proxy variables are read once a process.
func TestProxyFromTheEnvironment(t *testing.T) {
	const child = "CLIENT_TEST_BEHIND_PROXY"
	if os.Getenv(child) != "" {
		_, err := newClient(t, patConfig("https://dbc-1.cloud.databricks.test")).CreateToken(t.Context(), aMinute)
		e := failureOf(t, err)
		require.Equal(t, Unavailable, e.Kind)
		require.True(t, e.Unprocessed)
		require.NotContains(t, err.Error(), "hunter2")
		return
	}
	t.Parallel()
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(proxy.Close)
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyFromTheEnvironment$")
	cmd.Env = append(os.Environ(), child+"=1", "NO_PROXY=", "HTTPS_PROXY="+strings.Replace(proxy.URL, "://", "://user:hunter2@", 1))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "CONNECT dbc-1.cloud.databricks.test:443", asked.Load())
}
