// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// findToken returns a token, whosever it is, and whether token management knows it, which tells more of it; nil if nobody has it. With
// all it asks token management only, else the Token API first, which knows the tokens of the engine's own identity.
func findToken(ctx context.Context, conn *connection, id string, all bool) (token *client.TokenInfo, managed bool, err error) {
	if !all {
		// The Token API can't get a single token.
		tokens, err := conn.client.ListTokens(ctx)
		if err != nil {
			return nil, false, err
		}
		if i := slices.IndexFunc(tokens, func(t client.TokenInfo) bool { return t.TokenID == id }); i >= 0 {
			return &tokens[i], false, nil
		}
	}
	token, err = conn.client.GetManagedToken(ctx, id)
	if client.IsGone(err) {
		return nil, false, nil
	}
	return token, true, explainForeignToken(err, id, all)
}

// removeToken deletes a token, whosever it is. It returns false without an error only if certainly nobody has the token. With all it asks
// token management only, else the Token API first, which answers for the tokens of the engine's own identity. With own, the token can be
// nobody else's.
func removeToken(ctx context.Context, conn *connection, id string, all, own bool) (removed bool, err error) {
	if !all {
		err := conn.client.DeleteToken(ctx, id)
		if err == nil {
			return true, nil
		}
		if !client.IsGone(err) {
			return false, err
		}
		if own {
			return false, nil
		}
	}
	err = conn.client.DeleteManagedToken(ctx, id)
	if err == nil {
		return true, nil
	}
	if client.IsGone(err) {
		err = checkNobodyHas(ctx, conn, id)
	}
	return false, explainForeignToken(err, id, all)
}

// checkNobodyHas returns an error unless the list of all tokens of the workspace confirms that the token is not among them.
func checkNobodyHas(ctx context.Context, conn *connection, id string) error {
	tokens, err := conn.client.ListManagedTokens(ctx)
	if err != nil {
		return err
	}
	// The list shows that it is one of all tokens by having the engine's own, or, where the engine has none, any at all.
	own, complete := credential.TokenID(conn.config.Token), conn.config.AuthType != client.AuthPAT && len(tokens) > 0
	for i := range tokens {
		switch listed := tokens[i].TokenID; {
		case strings.EqualFold(listed, id):
			return logical.CodedError(http.StatusNotFound, fmt.Sprintf("%s: nothing was deleted: Databricks answers that there is no token %s, but lists %s; check the case of the id, or try again", keyTokenID, id, listed))
		case listed == own:
			complete = true
		}
	}
	if !complete {
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("%s: nothing was deleted: Databricks answers that there is no token %s, but its list of all tokens lacks even the engine's own, or is empty; try again", keyTokenID, id))
	}
	return nil
}

// explainForeignToken adds to an error of token management. If the engine's identity may not use that, it is a 404, unless the caller has
// asked for token management: a token that is not the engine's own may exist. A nil error stays nil.
func explainForeignToken(err error, id string, all bool) error {
	var remote *client.Error
	if all || !errors.As(err, &remote) || remote.Kind != client.PermissionDenied && remote.Kind != client.Refused {
		return err
	}
	return logical.CodedError(http.StatusNotFound, fmt.Sprintf("%s: %s is not a token of the engine's own identity. Another user's, or one on behalf of a service principal, may have this id and still work: only a workspace admin can tell. Repeat this with all=true on a mount that is connected as a workspace admin, or have one run: databricks token-management delete %s. (%s)", keyTokenID, id, id, err))
}
