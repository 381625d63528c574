-- A writer outside READ COMMITTED has updated rows, whose keys may be new.
        ELSIF TG_OP = 'UPDATE' THEN
          PERFORM rowbell.notify(root, NULL, @both_keys@);
