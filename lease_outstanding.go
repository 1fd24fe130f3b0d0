// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

// outstanding counts what live leases have left in a workspace that has no end there, by the records of the leases. A lease of v0.1.0 that
// was not renewed since has no record, so it isn't counted.
type outstanding struct{ secrets, ucSecrets, permissions, copies int }

// outstanding counts what leases have left where the origin leads to, and wherever the origin's workspace isn't known. It makes no call to
// Databricks.
func (b *backend) outstanding(ctx context.Context, s logical.Storage, made origin) (outstanding, error) {
	if err := b.intents.update(ctx, s, b.now()); err != nil {
		return outstanding{}, err
	}
	var mu sync.Mutex
	var found outstanding
	var group errgroup.Group
	group.SetLimit(intentReads)
	for _, id := range b.intents.records() {
		group.Go(func() error {
			record, err := readIntent(ctx, s, id)
			if errors.Is(err, errUnreadableIntent) {
				return nil // which the rollback reports
			}
			if err != nil || record == nil || !record.sameWorkspace(made) && (made.WorkspaceID != "" || made.AccountID != "") {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case record.Grant != nil:
				found.permissions++
			case record.Delivered:
				found.copies++
			case record.Written != nil && record.Written.UC != "":
				found.ucSecrets++
			case record.Written != nil:
				found.secrets++
			}
			return nil
		})
	}
	return found, group.Wait()
}

func (o outstanding) none() bool { return o == outstanding{} }

// kinds returns what there is of each kind, with the path that its leases are below.
func (o outstanding) kinds() (words, paths []string) {
	for _, kind := range []struct {
		n         int
		one, many string
		path      string
	}{
		{o.secrets, "leased secret", "leased secrets", "secrets"},
		{o.ucSecrets, "leased secret in Unity Catalog", "leased secrets in Unity Catalog", "uc-secrets"},
		{o.permissions, "leased permission", "leased permissions", "acls"},
		{o.copies, "delivered copy of a credential", "delivered copies of credentials", "creds"},
	} {
		switch {
		case kind.n == 1:
			words = append(words, "1 "+kind.one)
		case kind.n > 1:
			words = append(words, fmt.Sprint(kind.n, " ", kind.many))
		default:
			continue
		}
		paths = append(paths, kind.path)
	}
	return words, paths
}

// String returns the counts in words, such as "2 leased secrets and 1 leased permission".
func (o outstanding) String() string {
	words, _ := o.kinds()
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// revokeCommands returns the commands that end the leases.
func (o outstanding) revokeCommands(mountPoint string) string {
	_, paths := o.kinds()
	var commands []string
	for _, path := range paths {
		command := "vault lease revoke -sync -prefix " + mountPoint + path + "/"
		if path == "creds" {
			command += " (which ends all credentials of the mount; a single one by its lease id)"
		}
		commands = append(commands, command)
	}
	return strings.Join(commands, "; ")
}
