// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"
)

// A copy of Vault's storage that runs beside the original, as in a disaster-recovery drill, has the same mount with the same id, and
// would rotate the original's credentials and undo what it has in flight. Both can notice the other by a token with the mount's mark
// that was created while they ran and that they did not create.

// handoverTime is how long after its start an engine sees tokens of the one before it, on another node or in another process, which may
// still finish what it began.
const handoverTime = walMinAge + 3*time.Minute

// newInstance returns what the nonces of a process begin with, 32 random bits in hex.
func newInstance() string {
	var raw [4]byte
	rand.Read(raw[:]) // never fails
	return hex.EncodeToString(raw[:])
}

// newNonce returns a nonce by which the object that bears it is known to be of this process.
func (b *backend) newNonce() string { return b.instance + marker.NewNonce()[len(b.instance):] }

// checkAlone looks for tokens of another engine with this mount's id. Once one is found, the error stays until the plugin is reloaded. It also
// fails while it can't be told whether one is, soon after the start. Clusters with performance replication share the ids of their mounts.
func (b *backend) checkAlone(ctx context.Context, conn *connection, tokens []client.TokenInfo) error {
	shared := b.System().ReplicationState().HasState(consts.ReplicationPerformancePrimary | consts.ReplicationPerformanceSecondary)
	offset, err := conn.clockOffset(b.now())
	since, identity := b.intents.startedAt(), conn.cachedIdentity()
	if b.mountID == unnamedMount || shared || err != nil || since.IsZero() || identity == nil {
		return b.alone()
	}
	// A standby begins when it becomes active. How long ago that was, the monotonic clock tells.
	age := b.now().Sub(since)
	began := b.now().Add(offset - age).Add(clockTolerance)
	for _, token := range tokens {
		mark, ok := marker.Parse(token.Comment)
		// Others may copy the mark into comments of their own tokens.
		if !ok || mark.MountID != b.mountID || strings.HasPrefix(mark.Nonce, b.instance) || !token.CreationTime.After(began) ||
			token.CreatedByID != 0 && strconv.FormatInt(token.CreatedByID, 10) != identity.ID {
			continue
		}
		if !token.CreationTime.After(began.Add(handoverTime)) {
			if age > 2*handoverTime {
				continue // it was the last of the engine before
			}
			return fmt.Errorf("token %s was created at %s by another engine with this mount's id, which may be the one before; put off until that is certain", token.TokenID, rfc3339(token.CreationTime))
		}
		found := &splitBrainError{token.TokenID, token.CreationTime}
		if b.splitBrain.CompareAndSwap(nil, found) {
			b.Logger().Error("rotation, tidy and rollback have stopped", "error", found)
			b.event("split-brain", "status", "token_id", token.TokenID, "creation_time", rfc3339(token.CreationTime))
		}
	}
	return b.alone()
}

// alone returns an error if another engine with this mount's id was found.
func (b *backend) alone() error {
	if found := b.splitBrain.Load(); found != nil {
		return badField("mount_id", "%s", found)
	}
	return nil
}

// splitBrainError is a token that another engine with this mount's id has created.
type splitBrainError struct {
	tokenID string
	created time.Time
}

func (e *splitBrainError) Error() string {
	return fmt.Sprintf("token %s, created at %s, bears this mount's mark, but this engine did not create it: another Vault uses the mount, too, such as a copy of this one's storage. Stop the copy, then reload the plugin of the other one (vault plugin reload)", e.tokenID, rfc3339(e.created))
}
