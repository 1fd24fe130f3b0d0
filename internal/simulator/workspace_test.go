// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestStartRefusesAddressesThatAreNotLoopback(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
		_, err := simulator.Start(simulator.WithAddr(addr))
		require.ErrorContains(t, err, "is not loopback", addr)
	}
	_, err := simulator.Start(simulator.WithAddr("127.0.0.1"))
	require.ErrorContains(t, err, `address "127.0.0.1" is not host:port`)
	require.Panics(t, func() { simulator.New(simulator.WithAddr("0.0.0.0:0")) })
}

func TestStartAcceptsLoopbackNames(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"localhost:0", "127.0.0.2:0"} {
		w, err := simulator.Start(simulator.WithAddr(addr))
		require.NoError(t, err)
		w.Close()
	}
}

func TestStartFailsOnATakenPort(t *testing.T) {
	t.Parallel()
	w := start(t)
	u, err := url.Parse(w.URL())
	require.NoError(t, err)
	_, err = simulator.Start(simulator.WithAddr(u.Host))
	require.ErrorContains(t, err, "address already in use")
}

func TestWorkspaceIDMustBeANumber(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "abc", "0", "-5"} {
		_, err := simulator.Start(simulator.WithWorkspaceID(id))
		require.ErrorContains(t, err, "is not a positive number", id)
	}
	require.Equal(t, "42", start(t, simulator.WithWorkspaceID("42")).ID())
}

func TestTLSWithItsOwnCertificate(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.WithTLS())
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(w.CACert())))
	token, _ := w.AddToken(w.AddUser("alice@example.com", false), "", 0)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	c := sdkWith(t, &config.Config{Host: w.URL(), Token: token, Credentials: config.PatCredentials{}, HTTPTransport: transport})
	me, err := iam.NewCurrentUser(c).Me(t.Context(), iam.MeRequest{})
	require.NoError(t, err)
	require.Equal(t, "alice@example.com", me.UserName)

	_, err = try(w, "GET", pathMe, token, "")
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)

	require.Empty(t, start(t).CACert())
}

func TestCloseCutsHeldRequestsAndIsIdempotent(t *testing.T) {
	t.Parallel()
	w := start(t)
	fault := w.Inject(simulator.Fault{Hold: make(chan struct{})})
	failed := make(chan error, 1)
	go func() {
		_, err := try(w, "GET", pathMe, "", "")
		failed <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
	idle, err := net.Dial("tcp", w.URL()[len("http://"):])
	require.NoError(t, err)
	defer idle.Close()

	w.Close()
	require.Error(t, <-failed)
	_, err = idle.Read(make([]byte, 1))
	require.Error(t, err)
	w.Close()
	_, err = try(w, "GET", pathMe, "", "")
	require.ErrorContains(t, err, "connection refused")
	require.Len(t, w.Calls(), 1)
}

func TestPrincipals(t *testing.T) {
	t.Parallel()
	w := start(t)
	user := w.AddUser("alice@example.com", true)
	require.Equal(t, simulator.Principal{ID: user.ID, UserName: "alice@example.com", DisplayName: "alice@example.com", Admin: true}, user)
	require.Regexp(t, `^\d{16}$`, user.ID)

	one, two := w.AddServicePrincipal("etl", false), w.AddServicePrincipal("etl", false)
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, one.ApplicationID)
	require.Equal(t, one.ApplicationID, one.UserName)
	require.Equal(t, "etl", one.DisplayName)
	require.NotEqual(t, one.ApplicationID, two.ApplicationID)
	require.NotEqual(t, one.ID, two.ID)

	require.PanicsWithValue(t, `simulator: user name "alice@example.com" is taken`, func() { w.AddUser("alice@example.com", false) })
	stranger := start(t).AddServicePrincipal("other", false)
	require.Panics(t, func() { w.AddToken(stranger, "", 0) })
	require.PanicsWithValue(t, "simulator: only a service principal has OAuth secrets", func() { w.AddOAuthSecret(user, 0) })
}
