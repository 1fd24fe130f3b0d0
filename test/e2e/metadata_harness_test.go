// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/databricks/databricks-sdk-go/client"
	"github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"
)

const metadataName = "databricks-vault-metadata"

// metadataBinary builds the command once.
var metadataBinary = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(filepath.Dir(server.pluginDir), metadataName)
	args := []string{"build", "-buildvcs=false", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../../cmd/"+metadataName)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", metadataName, err, out)
	}
	return binary, nil
})

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

// metadata is the command, started for a mount.
type metadata struct {
	*mount
	cmd      *exec.Cmd
	out, err *output
	host     string // these two are known when it serves
	url      string
}

// metadataCommand makes the command with an empty home and Vault's address; env has other variables.
func (m *mount) metadataCommand(env []string, args ...string) *metadata {
	m.t.Helper()
	binary, err := metadataBinary()
	require.NoError(m.t, err)
	s := &metadata{mount: m, out: &output{}, err: &output{}}
	s.cmd = exec.Command(binary, append([]string{"-mount", m.path}, args...)...)
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.t.TempDir(), "VAULT_ADDR=" + m.server.addr}, env...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.err
	return s
}

var exported = regexp.MustCompile(`(?m)^export DATABRICKS_HOST='(.*)'\nexport DATABRICKS_AUTH_TYPE='metadata-service'\nexport DATABRICKS_METADATA_SERVICE_URL='(.*)'\n$`)

// serve starts the command and waits until it serves. Its log is searched when the test is over.
func (s *metadata) serve() *metadata {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Start())
	s.t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
		s.requireNoSecretInLog()
	})
	require.Eventually(s.t, func() bool {
		if match := exported.FindStringSubmatch(s.out.String()); match != nil {
			s.host, s.url = match[1], match[2]
		}
		return s.url != "" && s.err.String() != "" || s.cmd.Process.Signal(syscall.Signal(0)) != nil
	}, patience, 10*time.Millisecond)
	require.NotEmpty(s.t, s.url, "it says %s", s.err)
	return s
}

func (s *metadata) requireNoSecretInLog() {
	require.NotRegexp(s.t, anySecret, s.err.String())
	if s.url != "" {
		require.NotContains(s.t, s.err.String(), strings.Split(s.url, "/")[3], "the part of the path that can't be guessed")
	}
}

// stop ends it by a signal, and returns the exit status.
func (s *metadata) stop(signal os.Signal) int {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(signal))
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

// fail runs it to its end, which must be a failure, and returns what it says.
func (s *metadata) fail() string {
	s.t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(s.t, s.cmd.Run(), &exit)
	require.Equal(s.t, 1, exit.ExitCode(), "%s", s.err)
	s.requireNoSecretInLog()
	return s.err.String()
}

// answer asks for a token without the SDK, which would keep it. It may be called from any goroutine.
func (s *metadata) answer() (token string, expires time.Time, err error) {
	request, err := http.NewRequest(http.MethodGet, s.url, nil)
	if err != nil {
		return "", time.Time{}, err
	}
	request.Header.Set("X-Databricks-Metadata-Version", "1")
	request.Header.Set("X-Databricks-Host", s.host)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", time.Time{}, err
	}
	defer response.Body.Close()
	var said struct {
		AccessToken string `json:"access_token"`
		ExpiresOn   int64  `json:"expires_on"`
	}
	if response.StatusCode != http.StatusOK {
		return "", time.Time{}, fmt.Errorf("status %d", response.StatusCode)
	}
	err = json.NewDecoder(response.Body).Decode(&said)
	return server.secret(said.AccessToken, "an access token of the metadata service"), time.Unix(said.ExpiresOn, 0), err
}

// requireAnswer asks for a token, which must work.
func (s *metadata) requireAnswer() (token string, expires time.Time) {
	s.t.Helper()
	token, expires, err := s.answer()
	require.NoError(s.t, err, "it says %s", s.err)
	require.True(s.t, s.works(token))
	return token, expires
}

// sdkUser is a client of the SDK that notes the tokens that it uses.
type sdkUser struct {
	*client.DatabricksClient
	mu     sync.Mutex
	tokens map[string]int
}

func (u *sdkUser) RoundTrip(r *http.Request) (*http.Response, error) {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		u.mu.Lock()
		u.tokens[server.secret(token, "an access token that the SDK got")]++
		u.mu.Unlock()
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (u *sdkUser) seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var tokens []string
	for token := range u.tokens {
		tokens = append(tokens, token)
	}
	return tokens
}

func (s *metadata) newSDK() (*sdkUser, error) {
	u := &sdkUser{tokens: map[string]int{}}
	var err error
	u.DatabricksClient, err = client.New(&config.Config{
		Host: s.host, MetadataServiceURL: s.url, AuthType: "metadata-service", Credentials: config.MetadataServiceCredentials{},
		Loaders: []config.Loader{noLoader{}}, HTTPTransport: u, RateLimitPerSecond: 1 << 20,
	})
	return u, err
}

// call makes one request to the workspace.
func (u *sdkUser) call(ctx context.Context) error {
	_, _, err := sdkServices["Jobs"].list(ctx, u.DatabricksClient)
	return err
}

// actAsDatabricksCLI is what the test binary does under the name databricks: as Databricks' CLI, it finds its credential by the SDK, from the
// environment.
func actAsDatabricksCLI(args []string) error {
	if strings.Join(args, " ") != "current-user me" {
		return fmt.Errorf("unexpected arguments %q", args)
	}
	c, err := client.New(&config.Config{})
	if err != nil {
		return err
	}
	me, err := iam.NewCurrentUser(c).Me(context.Background(), iam.MeRequest{})
	if err == nil {
		fmt.Println(me.UserName)
	}
	return err
}
