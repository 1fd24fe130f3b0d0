// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// beside returns a further mount of the workspace of m, without a config.
func (m *mount) beside() *mount {
	m.t.Helper()
	other := &mount{t: m.t, routes: m.routes, storage: &hookedStorage{Storage: new(logical.InmemStorage), canaries: &m.canaries}, system: m.system, events: m.events, log: m.log, workspace: m.workspace, admin: m.admin, token: m.token}
	b, err := Factory(context.Background(), other.config())
	require.NoError(m.t, err)
	other.backend = b
	return other
}

// TestAMountTrustsItsOwnCertificatesAlone: mounts share connections, and one that trusts a workspace must not lend its connection to one
// that doesn't.
func TestAMountTrustsItsOwnCertificatesAlone(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithTLS())
	m.connect(map[string]any{"ca_cert": m.workspace.CACert()})
	m.write("roles/etl", map[string]any{"credential_type": "pat"})
	m.mint("etl") // so that there is a connection
	donor := simulator.New(simulator.WithTLS())
	t.Cleanup(donor.Close)

	calls := len(m.workspace.Calls())
	other := m.beside()
	for _, certificates := range []string{"", donor.CACert()} {
		resp, err := other.do(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "token": m.token, "ca_cert": certificates})
		other.coded(http.StatusBadGateway, resp, err, "the certificate of Databricks can't be trusted")
	}
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"ca_cert": donor.CACert()})
	m.coded(http.StatusBadGateway, resp, err, "the certificate of Databricks can't be trusted")
	require.Len(t, m.workspace.Calls(), calls, "nothing was sent")
	m.mint("etl")
}

// TestUnloadingAMountLeavesOthersTheirConnections: the connection that a call is on belongs to nobody alone.
func TestUnloadingAMountLeavesOthersTheirConnections(t *testing.T) {
	t.Parallel()
	m := ready(t)
	other := m.beside()
	other.connect()
	m.write("config", map[string]any{"max_retries": 0})
	hold := make(chan struct{})
	create := m.workspace.Inject(simulator.Fault{Path: createPath, Hold: hold, Times: 1})
	minted := make(chan error)
	go func() {
		resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/etl", Storage: m.storage, MountPoint: "databricks/"})
		if err == nil {
			err = resp.Error()
		}
		minted <- err
	}()
	require.Eventually(t, func() bool { return create.Hits() == 1 }, 10*time.Second, time.Millisecond)
	other.write("config", map[string]any{"ttl": "10m"}) // replaces its connection
	other.backend.Cleanup(context.Background())
	close(hold)
	require.NoError(t, <-minted)
	m.mint("etl")
}
