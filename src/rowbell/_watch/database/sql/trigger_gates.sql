-- With inserts declared, the key of an updated row may be new.
      IF TG_OP = 'UPDATE' THEN
@gate_of_both@
      ELSE
@gate@
      END IF;
